"""MLflow: on a file, on PostgreSQL with files in S3, absent from the start, and gone in the middle."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import psycopg
import pytest
from psycopg import sql
from trainings_for_tests import tiny_training

from featurestore.errors import ServiceUnavailableError, UsageError
from featurestore.services import Running, postgres
from trainer import TrackingRequest, TrainRequest, fit


@pytest.fixture
def database(services: Running) -> Iterator[str]:
    name = f"mlflow_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(services.catalog, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield services.catalog.removesuffix(postgres.DATABASE) + name
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_a_run_holds_parameters_metrics_dataset_and_software_and_goes_on_when_training_does(
    tiny: TrainRequest, tmp_path: Path
) -> None:
    tracking = TrackingRequest(f"sqlite:///{tmp_path / 'mlflow.db'}", run_name="first")
    request = replace(tiny, tracking=tracking, training=tiny_training(1))
    report = fit(request)
    assert report is not None
    again = fit(replace(request, training=tiny_training(2), resume="last"))
    assert again is not None
    assert again.run_id == report.run_id
    client = mlflow.MlflowClient(tracking.uri)
    run = client.get_run(str(report.run_id))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.data.params["network.backbone"] == "test_convnext2"
    assert run.data.params["optimizer.max_epochs"] == "1"
    assert run.data.params["features.n_fft"] == "256"
    assert run.data.tags["software.torch"]
    assert run.data.tags["feature_set"] == report.version
    losses = client.get_metric_history(str(report.run_id), "val/loss")
    assert [metric.value for metric in losses] == pytest.approx([report.val_loss, again.val_loss])
    assert {"train/loss", "train/gradient_norm", "data/wait_share", "val/error_median_m"} <= run.data.metrics.keys()
    assert run.inputs is not None
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.digest == report.version
    assert given.dataset.profile is not None
    assert json.loads(given.dataset.profile)["spec"]["n_mels"] == 24
    assert client.list_artifacts(str(report.run_id), "checkpoints")
    pictures = {Path(file.path).name for file in client.list_artifacts(str(report.run_id), "evaluation")}
    assert {"error_cdf.png", "map.png", "calibration.png", "error_by_snr.png", "metrics.json"} <= pictures
    assert list((tmp_path / "mlartifacts").rglob("*.ckpt"))


def test_postgresql_and_s3(tiny: TrainRequest, database: str, bucket: str) -> None:
    uri = database.replace("postgresql://", "postgresql+psycopg://")
    report = fit(replace(tiny, tracking=TrackingRequest(uri, artifacts=f"{bucket}/mlflow"), training=tiny_training(1)))
    assert report is not None
    run_id = str(report.run_id)
    client = mlflow.MlflowClient(uri)
    assert client.get_run(run_id).data.metrics["val/loss"] == pytest.approx(report.val_loss, rel=1e-6)
    assert client.get_run(run_id).info.artifact_uri.startswith(f"{bucket}/mlflow/")
    (found,) = client.list_artifacts(run_id, "checkpoints")
    assert found.file_size == Path(report.best).stat().st_size


def test_a_tracker_that_goes_away_is_a_warning(
    tiny: TrainRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def drop(self: object, trainer: object, module: object) -> None:
        import sqlite3

        with sqlite3.connect(tmp_path / "mlflow.db") as connection:
            connection.execute("DROP TABLE IF EXISTS metrics")

    monkeypatch.setattr("trainer.fitting.callbacks.EpochProgress.on_train_start", drop)
    said: list[str] = []

    class Notes:
        def start(self, stage: str, total: int, unit: str) -> None: ...
        def advance(self, units: int, n_bytes: int = 0) -> None: ...
        def say(self, line: str) -> None:
            said.append(line)

    report = fit(replace(tiny, tracking=TrackingRequest(uri)), Notes())
    assert report is not None
    assert report.epochs == 2
    assert sum("MLflow does not take everything any more" in line for line in said) == 1


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    "uri",
    ["http://127.0.0.1:{port}", "postgresql+psycopg://me:secret@127.0.0.1:{port}/mlflow", "sqlite:////proc/none/mlflow.db"],
)
def test_one_that_does_not_answer_is_an_error_before_the_first_epoch_and_soon(tiny: TrainRequest, uri: str) -> None:
    began = time.monotonic()
    with pytest.raises(ServiceUnavailableError, match="does not answer") as caught:
        fit(replace(tiny, tracking=TrackingRequest(uri.format(port=free_port()))))
    assert time.monotonic() - began < 400
    assert "secret" not in str(caught.value)
    assert not tiny.last.exists()


@pytest.mark.parametrize(
    ("uri", "match"), [("./runs", "is not an address that MLflow accepts"), ("postgresql://h/d", "names no driver")]
)
def test_an_address_that_is_none_is_named(tiny: TrainRequest, uri: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        fit(replace(tiny, tracking=TrackingRequest(uri)))
