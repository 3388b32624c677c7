"""`heimdall predict`: from a file, a release, all releases; captures and rows; three formats; without torch."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus_for_tests import SMALL
from exports_for_tests import Built, invoke, json_of, published

from exporter.graph.onnx_file import ExportedGraph
from exporter.predict.predictor import Predictor
from exporter.predict.table import ellipse
from exporter.release.latest import promote, read_release
from featurestore.store.split import Split
from trainer.network.geometry import geodesic_m

ROOT = Path(__file__).resolve().parents[3]
RATE = ["--sample-rate-hz", 48_000]

TORCH_FREE = """
import sys, click.testing, cli
done = click.testing.CliRunner().invoke(cli.main, ["predict", *sys.argv[1:]])
assert done.exit_code == 0, done.output
print(done.stdout, end="")
print(sorted({"torch", "trainer.network.model", "timm", "onnx", "lightning", "mlflow", "dask", "psycopg"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, graph: ExportedGraph, iq_graph: ExportedGraph) -> str:
    """1.2.3, which is the latest, with both graphs; 1.3.0 without IQ."""
    url = str(tmp_path_factory.mktemp("predict") / "models")
    promote(published(url, "1.2.3", graph, iq_graph), None)
    published(url, "1.3.0", graph)
    return url


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, built: Built) -> Path:
    directory = tmp_path_factory.mktemp("recordings")
    for session in range(3):
        (directory / str(session)).mkdir()
        np.save(directory / str(session) / "a.npy", built.corpus.samples(session, 1))
    return directory


def expected(iq_graph: ExportedGraph, built: Built) -> Any:
    captures = np.stack([built.corpus.samples(session, 1) for session in range(3)])
    return Predictor(iq_graph.path).predict_iq(captures, 48_000)


def test_every_name_of_a_model_gives_the_same(models: str, recordings: Path, iq_graph: ExportedGraph, built: Built) -> None:
    wanted = expected(iq_graph, built)
    ways = [[models], [f"{models}/v1.2.3"], ["1.2.3", "--models", models], ["latest", "--models", models], [str(iq_graph.path)]]
    for model, *more in ways:
        found = json_of("predict", model, recordings, *RATE, *more)
        assert (found["release"], found["precision"]) == ("1.2.3", "fp32")
        assert [item["capture"] for item in found["predictions"]] == [str(recordings / f"{n}/a.npy") for n in range(3)]
        positions = [[item["latitude"], item["longitude"]] for item in found["predictions"]]
        np.testing.assert_allclose(positions, wanted.positions, atol=1e-6)


def test_a_release_in_s3(bucket: str, recordings: Path, graph: ExportedGraph, iq_graph: ExportedGraph) -> None:
    release = published(bucket, "1.2.3", graph, iq_graph)
    found = json_of("predict", release.url, recordings, *RATE)
    assert found["model"] == f"{bucket}/v1.2.3/model-iq.onnx"
    assert len(found["predictions"]) == 3
    done = invoke("predict", bucket, recordings, *RATE)
    assert (done.exit_code, "no release was promoted yet" in done.stderr) == (2, True)


def test_torch_and_what_needs_it_are_never_imported(models: str, recordings: Path, built: Built) -> None:
    for arguments in (
        [models, recordings / "0/a.npy", *RATE, "--format", "geojson"],
        ["1.3.0", "--models", models, "--store", built.corpus.store, "--limit", 3],
    ):
        command = [sys.executable, "-W", "error", "-c", TORCH_FREE, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"


def test_rows_of_a_set_as_csv(models: str, graph: ExportedGraph, built: Built, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    options = ["--store", built.corpus.store, "--split", "val", "--out", out]
    assert invoke("predict", f"{models}/v1.3.0", *options).stdout == ""
    records = list(csv.DictReader(io.StringIO(out.read_text())))
    rows, wanted = Predictor(graph.path).predict_set(built.feature_set, Split.VAL)
    assert [int(record["row"]) for record in records] == rows.row.tolist()
    assert [int(record["capture_id"]) for record in records] == rows.capture_id.tolist()
    np.testing.assert_allclose([float(record["longitude"]) for record in records], wanted.positions[:, 1], atol=1e-6)
    np.testing.assert_allclose([float(record["sigma_north_m"]) for record in records], wanted.uncertainties[:, 1], atol=0.01)
    np.testing.assert_allclose([float(record["true_latitude"]) for record in records], rows.position[:, 0], atol=1e-6)


def test_geojson_with_ellipses(models: str, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.geojson"
    done = invoke("predict", models, recordings, *RATE, "--out", out, "--ellipses")
    assert done.exit_code == 0, done.output
    content = json.loads(out.read_text())
    assert content["type"] == "FeatureCollection"
    kinds = [feature["geometry"]["type"] for feature in content["features"]]
    assert kinds == ["Point", "Polygon"] * 3
    point, polygon = content["features"][:2]
    longitude, latitude = point["geometry"]["coordinates"]
    assert 44 < latitude < 47
    assert 5 < longitude < 9
    assert point["properties"].keys() == {"capture", "sigma_east_m", "sigma_north_m"}
    (ring,) = polygon["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    assert np.mean(ring[:-1], axis=0) == pytest.approx([longitude, latitude], abs=1e-3)
    plain = json.loads(invoke("predict", models, recordings, *RATE, "--format", "geojson").stdout)
    assert {feature["geometry"]["type"] for feature in plain["features"]} == {"Point"}


@pytest.mark.parametrize("latitude", [0.0, 45.0, -70.0])
def test_ellipses_are_as_large_as_they_say(latitude: float) -> None:
    """Half axes against PROJ's geodesics; against the clock."""
    ring = np.array(ellipse(latitude, 8.0, 3000.0, 1000.0))
    centre = np.array([latitude, 8.0])
    distances = geodesic_m(centre, ring[:, ::-1])
    assert distances.max() == pytest.approx(3000, rel=1e-3)
    assert distances.min() == pytest.approx(1000, rel=1e-3)
    x, y = ring.T
    assert np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0


def test_the_table(models: str, recordings: Path) -> None:
    lines = invoke("predict", models, recordings, *RATE, "--quiet").stdout.splitlines()
    assert lines[0].split() == ["capture", "latitude", "longitude", "σ", "east,", "km", "σ", "north,", "km"]
    assert len(lines) == 4


def test_an_unusable_capture_is_left_out_and_said(models: str, recordings: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "silent.npy", np.ones(4000, np.complex64))
    done = invoke("predict", models, tmp_path, recordings / "1", *RATE, "--format", "csv")
    assert done.exit_code == 0
    assert "left out: " in done.stderr
    assert "is silent" in done.stderr
    assert len(done.stdout.splitlines()) == 2
    done = invoke("predict", models, tmp_path, *RATE)
    assert (done.exit_code, "none of 1 captures is usable" in done.stderr) == (3, True)


def test_mistakes(models: str, recordings: Path, built: Built, graph: ExportedGraph, tmp_path: Path) -> None:
    store = ["--store", built.corpus.store]
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([models, recordings], "sample rate is unknown; "),
        ([models, recordings, "--sample-rate-hz", 192_000], "takes 48000 Hz: give --sample-rate-hz 48000 if"),
        ([models], "neither given"),
        ([models, recordings, *RATE, *store], "both given"),
        ([f"{models}/v1.3.0", recordings, *RATE], "has no model-iq.onnx, only model.onnx"),
        ([graph.path, recordings, *RATE], "takes features, not captures"),
        ([f"{models}/v9.9.9", recordings, *RATE], "release 9.9.9"),
        (["1.x", recordings, *RATE, "--models", models], "expected three numbers"),
        ([models, tmp_path / "absent.npy", *RATE], "does not exist"),
        ([models, tmp_path / "empty", *RATE], "holds no .npy file"),
        ([models, recordings, *RATE, "--ellipses"], "only GeoJSON has them"),
        ([models, recordings, *RATE, "--out", tmp_path / "map.pdf"], "does not say how to write it"),
        ([models, recordings, *RATE, "--out", tmp_path / "absent" / "map.csv"], "cannot be written"),
        ([models, *store, "--features", "absent"], "no feature set or tag 'absent'"),
    ):
        done = invoke("predict", *arguments)
        assert (done.exit_code, message in done.stderr) == (2, True), (arguments, done.stderr)


def test_a_damaged_release_is_not_used(tmp_path: Path, graph: ExportedGraph, iq_graph: ExportedGraph, recordings: Path) -> None:
    release = published(str(tmp_path / "models"), "1.0.0", graph, iq_graph)
    release.objects.put("v1.0.0/model-iq.onnx", iq_graph.path.read_bytes()[:-1] + b"x")
    done = invoke("predict", tmp_path / "models" / "v1.0.0", recordings, *RATE)
    assert (done.exit_code, "it is damaged" in done.stderr) == (1, True)
    assert read_release(release.objects, "1.0.0").read("model.onnx") == graph.path.read_bytes()


def test_the_example_in_the_docs_runs(
    models: str, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "exporting.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shutil.copyfile(recordings / "0" / "a.npy", tmp_path / "recording.npy")
    monkeypatch.chdir(tmp_path)
    example = example.replace("s3://models", models).replace("192_000", str(SMALL.sample_rate_hz))
    exec(compile(example, "exporting.md", "exec"), {})
    assert re.match(r"\[\[4\d\.\d+ +\d\.\d+\]\] \[\[", capsys.readouterr().out.replace("\n", " "))
