"""`heimdall export`: through S3 and MLflow on PostgreSQL; what is refused, and that nothing of it is seen."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from click.testing import Result
from corpus_for_tests import SMALL
from exports_for_tests import Built, invoke, json_of, save_checkpoint, with_weight

from exporter.graph.onnx_file import ExportedGraph, read_model, write
from exporter.predict.predictor import Predictor
from exporter.release.latest import read_latest, read_release
from exporter.release.publish import claim
from exporter.release.release import Version, list_releases
from featurestore.errors import StoreError
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.services import Running
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.network.checkpoints import Checkpoint

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Exported:
    """What two exports to one place have left, and what they printed."""

    models: str
    first: dict[str, Any]
    second: Result
    mlflow: str


def traced_before(graph: ExportedGraph) -> Callable[[Checkpoint, Path, str], ExportedGraph]:
    """For exports whose graph needs no new trace; everything else about them is real."""

    def again(checkpoint: Checkpoint, path: Path, release: str) -> ExportedGraph:
        return write(read_model(graph.path)[0], path, replace(graph.info, release=release))

    return again


@pytest.fixture(scope="module")
def s3(services: Running) -> Iterator[str]:
    """A bucket that lives as long as the module."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in services.environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        name = f"exported-{uuid.uuid4().hex[:12]}"
        services.create_buckets(name)
        yield f"s3://{name}/models"


@pytest.fixture(scope="module")
def exported(  # noqa: PLR0917 - pytest gives them by name
    s3: str, mlflow_database: str, checkpoint_file: Path, built: Built, graph: ExportedGraph, iq_graph: ExportedGraph
) -> Exported:
    """The first with both graphs, as fp32; the second in fewer bits, without IQ. The demo traces both on its way, too."""
    options = [checkpoint_file, "--models", s3, "--store", built.corpus.store, "--registry-uri", mlflow_database]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exporter.made_graphs.export_graph", traced_before(graph))
        patch.setattr("exporter.made_graphs.export_iq_graph", traced_before(iq_graph))
        first = json_of("export", *options, "--raw", built.corpus.raw, "--captures", 4, "--quiet")
        limit = first["files"]["model.onnx"] / 1e6 - 0.1
        second = invoke("export", *options, "--precision", "auto", "--max-size-mb", limit)
    assert second.exit_code == 0, second.output
    return Exported(s3, first, second, mlflow_database)


def test_a_release_holds_all_that_a_service_needs(exported: Exported, built: Built, checkpoint_file: Path) -> None:
    release = read_release(exported.models, "0.1.0")
    assert set(release.files) == {"model.onnx", "model-iq.onnx", "config.yaml", "metrics.json", "README.md", "MLmodel"}
    config, metrics = yaml.safe_load(release.read("config.yaml")), json.loads(release.read("metrics.json"))
    assert config["features"]["spec"] == SMALL.to_json()
    assert np.float32(config["mean"]).tobytes() == built.feature_set.basis.mean.tobytes()
    assert np.float32(config["std"]).tobytes() == built.feature_set.basis.std.tobytes()
    assert config["features"]["version"] == built.feature_set.version
    assert config["region"]["half_extent_m"] == 100_000
    assert config["training"]["network"]["backbone"] == "test_convnext2"
    assert config["checkpoint"]["sha256"] == hashlib.sha256(checkpoint_file.read_bytes()).hexdigest()
    assert {"python", "torch", "onnx"} <= config["software"].keys()
    assert {"val", "test"} == metrics["evaluation"].keys()
    for name in ("model.onnx", "model-iq.onnx"):
        assert metrics["files"][name]["sha256"] == hashlib.sha256(release.read(name)).hexdigest()
        assert metrics["validation"][name]["passed"] is True
        assert metrics["validation"][name]["graph"] == name
        assert Predictor(release.read(name)).info.release == "0.1.0"
    assert metrics["validation"]["model.onnx"]["latency_ms"]["1"]["speedup"] > 0
    assert metrics["validation"]["model-iq.onnx"]["worst"][0][0].startswith("capture sessions/")
    assert [item["precision"] for item in metrics["precision"]["measured"]] == ["fp32", "fp16", "int8-weights"]
    assert metrics["precision"]["split"] == "test"
    assert "/tmp/" not in json.dumps(metrics["validation"])


def test_the_first_is_used_at_once_and_the_second_waits(exported: Exported) -> None:
    assert (exported.first["release"], exported.first["latest"]) == ("0.1.0", "0.1.0")
    assert exported.first["registered"] == "heimdall version 1"
    out = exported.second.stdout
    assert out.startswith("release 0.1.1 of feature set ")
    assert "services still use 0.1.0; heimdall releases promote 0.1.1 makes them use this one" in out
    assert "| fp16 |" in out
    assert str(read_release(exported.models).version) == "0.1.0"
    assert read_release(exported.models, "0.1.1").about["precision"] == "fp16"
    client = mlflow.MlflowClient(exported.mlflow, exported.mlflow)
    releases = {
        alias: client.get_model_version_by_alias("heimdall", alias).tags["release"] for alias in ("candidate", "champion")
    }
    assert releases == {"candidate": "0.1.1", "champion": "0.1.0"}


@pytest.mark.parametrize(("number", "lines"), [("0.1.0", 6), ("0.1.1", 5)])
def test_the_card_runs(  # noqa: PLR0917 - pytest gives them by name
    exported: Exported, built: Built, tmp_path: Path, number: str, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = read_release(exported.models, number)
    page = release.read("README.md").decode()
    header = yaml.safe_load(page.split("---\n")[1])
    assert (header["release"], header["spec"], header["feature_set"]) == (number, SMALL.id, built.feature_set.version)
    assert "One receiver hardly locates" in page
    assert "σ" in page.split("## Calibration")[1].split("##")[0]
    (example,) = re.findall(r"```python\n(.*?)\n```", page, re.DOTALL)
    assert len(example.splitlines()) == lines
    monkeypatch.chdir(tmp_path)
    for name in release.files:
        Path(name).write_bytes(release.read(name))
    np.save("capture.npy", built.corpus.samples(1, 1))
    np.save("features.npy", np.zeros((2, *SMALL.tensor_shape), np.float32))
    found: dict[str, npt.NDArray[Any]] = {}
    exec(compile(example, "README.md", "exec"), found)
    assert found["positions"].shape == ({6: 1, 5: 2}[lines], 2)
    assert np.isfinite(found["positions"]).all()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, graph: ExportedGraph) -> None:
    monkeypatch.setattr("exporter.made_graphs.export_graph", traced_before(graph))


@pytest.fixture
def options(checkpoint_file: Path, built: Built, tmp_path: Path) -> list[object]:
    return [checkpoint_file, "--models", tmp_path / "models", "--store", built.corpus.store, "--no-registry", "--quiet"]


def releases_in(directory: Path) -> Objects:
    return open_objects(Location.parse(str(directory)).url)


def test_a_wrong_graph_is_refused_and_nothing_is_published(
    graph: ExportedGraph, options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(checkpoint: Checkpoint, path: Path, release: str) -> ExportedGraph:
        return with_weight(graph, "position_head.6.weight", path, factor=1.1)

    monkeypatch.setattr("exporter.made_graphs.export_graph", wrong)
    done = invoke("export", *options)
    assert done.exit_code == 3
    assert re.search(r"model\.onnx differs from PyTorch: .* worst: row \d+ \(capture \d+, window 0\): ", done.stderr)
    assert not [path for path in (tmp_path / "models").rglob("*") if path.is_file()]


@pytest.mark.usefixtures("quick")
def test_a_crash_before_latest_leaves_the_old_one(
    options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("export", *options, "--release", "1.2.0").exit_code == 0
    put = Objects.put_json

    def fail(self: Objects, key: str, value: Any, *, create: bool = False) -> bool:
        if key == "latest.json":
            raise StoreError("the disk is full")
        return put(self, key, value, create=create)

    monkeypatch.setattr(Objects, "put_json", fail)
    done = invoke("export", *options, "--promote")
    assert done.exit_code == 1
    assert "release 1.2.1 is published at" in done.stderr
    assert "but the disk is full. Then: heimdall releases promote 1.2.1" in done.stderr
    monkeypatch.undo()
    objects = releases_in(tmp_path / "models")
    assert str(read_release(objects).version) == "1.2.0"
    assert json_of("releases", "promote", "1.2.1", "--models", tmp_path / "models", "--no-registry")["before"] == "1.2.0"


def test_a_number_that_is_taken_is_said_at_once(options: list[object], tmp_path: Path) -> None:
    claim(releases_in(tmp_path / "models"), Version(1, 0, 0))
    done = invoke("export", *options, "--release", "1.0.0")
    assert (done.exit_code, "release 1.0.0 is being written" in done.stderr) == (2, True)


def code(directory: Path, checkpoint: Checkpoint) -> Path:
    class Harm:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            import os

            return os.system, (f"touch {directory}/harm",)

    return save_checkpoint(checkpoint, directory / "code.ckpt", extra=Harm())


def cut(directory: Path, checkpoint: Checkpoint) -> Path:
    path = save_checkpoint(checkpoint, directory / "cut.ckpt")
    path.write_bytes(path.read_bytes()[:-5000])
    return path


def other_features(directory: Path, checkpoint: Checkpoint) -> Path:
    state = replace(checkpoint.features, spec=replace(SMALL, hop_length=32)).to_state()
    return save_checkpoint(checkpoint, directory / "other.ckpt", features=state)


def other_basis(directory: Path, checkpoint: Checkpoint) -> Path:
    return save_checkpoint(
        checkpoint, directory / "basis.ckpt", features=replace(checkpoint.features, basis="0" * 12).to_state()
    )


def other_set(directory: Path, checkpoint: Checkpoint) -> Path:
    return save_checkpoint(
        checkpoint, directory / "set.ckpt", features=replace(checkpoint.features, version="f" * 12).to_state()
    )


def other_weights(directory: Path, checkpoint: Checkpoint) -> Path:
    return save_checkpoint(checkpoint, directory / "weights.ckpt", state_dict={"net.a": torch.zeros(1)})


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (code, "could run code"),
        (cut, "is damaged, cut short or no checkpoint"),
        (other_features, r"was trained on features with hop_length 32 \(the set has 64\)"),
        (other_basis, "normalized by basis 000000000000"),
        (other_set, "ffffffffffff.*--features names another"),
        (other_weights, "weights that do not fit"),
    ],
)
def test_checkpoints_that_cannot_be_exported(
    made: Callable[[Path, Checkpoint], Path], match: str, checkpoint: Checkpoint, options: list[object], tmp_path: Path
) -> None:
    done = invoke("export", made(tmp_path, checkpoint), *options[1:])
    assert done.exit_code == 2
    assert re.search(match, done.stderr)
    assert not (tmp_path / "harm").exists()
    assert list_releases(releases_in(tmp_path / "models")) == ([], [])


@pytest.mark.parametrize(
    ("more", "exit_code", "match"),
    [
        (["--input", "iq"], 2, "--input iq without --raw: the IQ graph is validated on captures"),
        (["--release", "1.2"], 2, "release is '1.2'; expected three numbers"),
        (["--max-size-mb", "0"], 2, "max_size_mb 0"),
        (["--features", "absent"], 2, "no feature set or tag 'absent'"),
        (["--tolerance-m", "-1"], 2, "the tolerance absolute_m is -1"),
        (["--store", "/nowhere/at-all"], 2, "nowhere"),
    ],
)
def test_impossible_options(more: list[str], exit_code: int, match: str, options: list[object], tmp_path: Path) -> None:
    done = invoke("export", *options, *more)
    assert (done.exit_code, bool(re.search(match, done.stderr))) == (exit_code, True), done.stderr
    assert list_releases(releases_in(tmp_path / "models")) == ([], [])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--max-size-mb", "0.1"], r"fp32 does not fit 0\.1 MB"),
        (["--precision", "auto", "--max-size-mb", "0.1"], r"no precision fits 0\.1 MB"),
        (["--raw", "{empty}"], r"holds none of \d+ captures of the val split of .*such as sessions/"),
    ],
)
def test_what_turns_out_later_gives_the_number_back(more: list[str], match: str, options: list[object], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = invoke("export", *options, *(text.format(empty=tmp_path / "empty") for text in more))
    assert (done.exit_code, bool(re.search(match, done.stderr))) == (2, True), done.stderr
    assert list_releases(releases_in(tmp_path / "models")) == ([], [])


def test_an_absent_bucket_and_a_silent_tracker_are_said_before_anything_is_done(
    bucket: str, options: list[object], tmp_path: Path
) -> None:
    done = invoke("export", *options, "--models", f"{bucket}-absent")
    assert (done.exit_code, "does not exist; create it" in done.stderr) == (1, True)
    silent = [item for item in options if item != "--no-registry"]
    done = invoke("export", *silent, "--registry-uri", "http://127.0.0.1:9")
    assert (done.exit_code, "--no-registry" in done.stderr) == (75, True)
    assert read_latest(releases_in(tmp_path / "models")) is None


@pytest.mark.usefixtures("quick")
def test_a_checkpoint_that_changes_meanwhile_is_refused(
    options: list[object], checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(str(options[0]), tmp_path / "last.ckpt"))
    rows = FeatureSet.read_features

    def and_train_on(self: FeatureSet, *given: Any) -> npt.NDArray[np.float16]:
        save_checkpoint(checkpoint, path, epoch=99)
        return rows(self, *given)

    monkeypatch.setattr(FeatureSet, "read_features", and_train_on)
    done = invoke("export", path, *options[1:])
    assert (done.exit_code, "has changed since the export began" in done.stderr) == (2, True)
    assert list_releases(releases_in(tmp_path / "models")) == ([], [])


@pytest.mark.usefixtures("quick")
def test_without_test_rows_precisions_are_measured_on_val(
    options: list[object], monkeypatch: pytest.MonkeyPatch, built: Built
) -> None:
    labels = built.feature_set.labels
    kept = np.where(labels.split == Split.TEST, Split.ABSENT, labels.split).astype(np.uint8)
    monkeypatch.setattr(FeatureSet, "labels", replace(labels, split=kept), raising=False)
    found = json_of("export", *options)
    assert found["metrics"].keys() == {"val"}
    assert any("precisions were measured on val" in note for note in found["notes"])


def test_of_two_exports_of_one_number_at_the_same_time_one_wins(s3: str, checkpoint_file: Path, built: Built) -> None:
    """Two processes, everything real; the one that comes second ends without having computed anything."""
    arguments = [sys.executable, "-m", "cli", "export", str(checkpoint_file), "--models", f"{s3}-race", "--no-registry"]
    where = ["--store", str(built.corpus.store), "--release", "7.0.0", "--quiet"]
    running = [
        subprocess.Popen([*arguments, *where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=600) for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0, 2], said
    _, error = said[codes.index(2)]
    assert error.startswith("error: ")
    assert "7.0.0" in error
    assert "Traceback" not in error
    release = read_release(f"{s3}-race")
    assert str(release.version) == "7.0.0"
    for name in release.files:
        release.read(name)  # checked against its digest
