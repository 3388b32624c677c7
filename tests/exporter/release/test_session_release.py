"""A network for sessions, from its checkpoint to positions: export, releases, predict, and a script without this project."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from exports_for_tests import Built, invoke, json_of, save_checkpoint

from exporter.graph.onnx_file import ExportedGraph, read_model, write
from exporter.predict.contours import polygons, signed_area
from exporter.release.latest import read_latest, read_release
from trainer.network.checkpoints import Checkpoint

RATE = 48_000

CONSUMER = """
import json, sys
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["session"])
stands = {each["websdr_id"]: (each["latitude"], each["longitude"]) for each in about["receivers"]}
z = np.stack([np.load(f"{sys.argv[2]}/websdr_{n}.npy") for n in (1, 2, 3)])
inputs = {
    "iq": np.stack([z.real, z.imag], axis=1)[None].astype(np.float32),
    "receiver_id": np.array([[1, 2, 3]]),
    "receiver_position": np.array([[stands[n] for n in (1, 2, 3)]], np.float32),
    "present": np.ones((1, 3), bool),
}
positions, covariances, log_density = session.run(None, inputs)
ours = {"torch", "timm", "trainer", "featurestore", "exporter", "scipy", "onnx"} & set(sys.modules)
print(json.dumps([positions.tolist(), covariances.tolist(), sorted(ours)]))
"""


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory,
    session_checkpoint: Checkpoint,
    session_graph: ExportedGraph,
    session_iq_graph: ExportedGraph,
    built: Built,
) -> Path:
    """Two releases of one checkpoint; their graphs were traced before, everything else about them is real."""

    def again(graph: ExportedGraph) -> Any:
        def write_again(_: Checkpoint, path: Path, release: str) -> ExportedGraph:
            return write(read_model(graph.path)[0], path, replace(graph.info, release=release))

        return write_again

    directory = tmp_path_factory.mktemp("sessions")
    file = save_checkpoint(session_checkpoint, directory / "last.ckpt")
    options = [file, "--models", directory / "models", "--store", built.corpus.store, "--no-registry", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exporter.made_session_graphs.export_session_graph", again(session_graph))
        patch.setattr("exporter.made_session_graphs.export_session_iq_graph", again(session_iq_graph))
        first = json_of("export", *options, "--raw", built.corpus.raw, "--captures", 6)
        second = invoke("export", *options, "--precision", "auto")
    assert first["located"] == "session"
    assert first["validation"]["model-iq.onnx"]["unit"] == "sessions"
    assert first["validation"]["model-iq.onnx"]["rows"] == 2
    assert second.exit_code == 0, second.output
    assert "sessions, error" in second.output
    return directory / "models"


def test_a_release_says_what_it_locates(models: Path) -> None:
    release = read_release(str(models), "0.1.0")
    assert release.about["located"] == "session"
    assert [one["name"] for one in release.about["signature"]["outputs"]] == ["positions", "covariances", "log_density"]
    config, metrics = yaml.safe_load(release.read("config.yaml")), json.loads(release.read("metrics.json"))
    assert config["session"]["fusion"] == "radio-map"
    assert metrics["evaluation"]["test"]["located"] == "session"
    assert set(metrics["evaluation"]["test"]["metrics"]["by_receivers_present"]) == {"1", "2", "3"}
    assert [one["precision"] for one in metrics["precision"]["measured"]] == ["fp32"]
    card = release.read("README.md").decode()
    assert "39.3% region of highest density" in card
    assert "One receiver hardly locates" not in card


def test_the_card_s_script_runs(models: Path, built: Built, tmp_path: Path) -> None:
    release = read_release(str(models), "0.1.0")
    (tmp_path / "model-iq.onnx").write_bytes(release.read("model-iq.onnx"))
    session = session_directory(built, 0)
    for path in session.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    script = release.read("README.md").decode().split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[[4")


def test_sessions_are_compared_and_promoted(models: Path, built: Built) -> None:
    found = json_of("releases", "compare", "0.1.0", "0.1.1", "--models", models, "--store", built.corpus.store, "--quiet")
    assert found["unit"] == "sessions"
    assert found["difference"]["mean_m"] == 0
    assert found["a"]["metrics"]["error_mean_m"] > 0
    latest = read_latest_number(models)
    assert latest == "0.1.0"
    assert invoke("releases", "promote", "0.1.1", "--models", models, "--no-registry").exit_code == 0
    assert read_latest_number(models) == "0.1.1"
    assert invoke("releases", "rollback", "--models", models, "--no-registry").exit_code == 0


def read_latest_number(models: Path) -> str:
    from featurestore.objects.objects import Location, open_objects

    found = read_latest(open_objects(Location.parse(str(models)).url))
    assert found is not None
    return str(found.version)


def test_other_precisions_are_refused(models: Path, built: Built) -> None:
    file = models.parent / "last.ckpt"
    options = ["--models", models, "--store", built.corpus.store, "--no-registry", "--precision", "fp16"]
    refused = invoke("export", file, *options)
    assert refused.exit_code == 2, refused.output
    assert "in fp32 only" in refused.output


def session_directory(built: Built, index: int) -> Path:
    return built.corpus.raw.directory / Path(built.corpus.key(index, 1)).parent


def test_captures_are_grouped_by_path_and_a_script_agrees(models: Path, built: Built, tmp_path: Path) -> None:
    directories = [session_directory(built, index) for index in (0, 1)]
    found = json_of("predict", models / "v0.1.0", *directories, "--sample-rate-hz", RATE, "--quiet")
    assert found["located"] == "session"
    assert {one["session_id"] for one in found["predictions"]} == {path.name for path in directories}
    one = next(one for one in found["predictions"] if one["session_id"] == directories[0].name)
    assert one["receivers"] == [1, 2, 3]
    graph = tmp_path / "model-iq.onnx"
    graph.write_bytes(read_release(str(models), "0.1.0").read("model-iq.onnx"))
    command = [sys.executable, "-W", "error", "-c", CONSUMER, str(graph), str(directories[0])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    positions, covariances, imported = json.loads(done.stdout.replace("NaN", "null"))
    np.testing.assert_allclose(positions[0], [one["latitude"], one["longitude"]], atol=1e-6)
    sigma = np.sqrt(np.diag(covariances[0]))
    np.testing.assert_allclose(sigma, [one["sigma_east_m"], one["sigma_north_m"]], rtol=1e-4, atol=0.01)
    assert imported == []


def test_a_table_names_sessions_and_places(models: Path, built: Built, tmp_path: Path) -> None:
    rows = ["file,session_id,websdr_id,latitude,longitude"]
    for number, place in ((1, ","), (2, ","), (9, "45.1,7.2")):  # nobody knows 9 but by where it stands
        (tmp_path / f"{number}.npy").write_bytes((session_directory(built, 2) / f"websdr_{min(number, 3)}.npy").read_bytes())
        rows.append(f"{number}.npy,mine,{number},{place}")
    table = tmp_path / "sessions.csv"
    table.write_text("\n".join(rows))
    done = invoke("predict", models, "--sessions", table, "--sample-rate-hz", RATE, "--format", "csv", "--quiet")
    # The latest release was promoted and rolled back: it is the one that has the IQ graph.
    assert done.exit_code == 0, done.output
    (record,) = csv.DictReader(io.StringIO(done.stdout))
    assert (record["session_id"], record["receivers"]) == ("mine", "1 2 9")
    lacking = invoke("predict", models, tmp_path / "1.npy", "--sample-rate-hz", RATE)
    assert lacking.exit_code == 2
    assert "does not say which session" in lacking.output
    table.write_text("file,session_id,websdr_id,latitude\n1.npy,a,1,95")
    refused = invoke("predict", models, "--sessions", table, "--sample-rate-hz", RATE)
    assert refused.exit_code == 2
    assert "line 2: latitude, longitude are '95', ''" in refused.output


def test_geojson_holds_regions_that_hold_the_point(models: Path, built: Built) -> None:
    options = ["--store", built.corpus.store, "--split", "test", "--limit", 2, "--format", "geojson", "--quiet"]
    done = invoke("predict", models / "v0.1.0", *options)
    assert done.exit_code == 0, done.output
    features = json.loads(done.stdout)["features"]
    assert [one["geometry"]["type"] for one in features] == ["Point", "MultiPolygon", "MultiPolygon"] * 2
    areas = []
    for one in features[1:3]:
        rings = [np.array(ring) for polygon in one["geometry"]["coordinates"] for ring in polygon]
        assert all((ring[0] == ring[-1]).all() for ring in rings)
        km2 = sum(signed_area(ring * [78.7, 111.1]) for ring in rings)  # a degree at 45°; holes count less than nothing
        name = {0.393: "area_39_km2", 0.865: "area_86_km2"}[one["properties"]["level"]]
        assert km2 == pytest.approx(one["properties"][name], rel=0.15)  # cells of 0.5 km
        areas.append(km2)
    assert areas[0] < areas[1]


def test_rings_become_polygons_with_their_holes() -> None:
    def square(low: float, high: float) -> Any:
        return np.array([[low, low], [high, low], [high, high], [low, high], [low, low]], float)

    rings = [square(2, 8), square(0, 10)[::-1], square(4, 6), square(20, 21)]
    found = polygons(rings)
    assert sorted(len(polygon) for polygon in found) == [1, 1, 2]
    (with_hole,) = (polygon for polygon in found if len(polygon) == 2)
    assert [signed_area(np.array(ring)) for ring in with_hole] == [100, -36]
    assert sum(signed_area(np.array(ring)) for polygon in found for ring in polygon) == 100 - 36 + 4 + 1
