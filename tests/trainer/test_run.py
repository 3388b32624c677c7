"""Training end to end on a small set: it learns, it resumes exactly, it leaves checkpoints that hold no code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from corpus_for_tests import Corpus

from cli import main
from featurestore.errors import ServiceUnavailableError, UsageError
from featurestore.objects import Location
from trainer.augment import AugmentSpec
from trainer.checkpoints import read_checkpoint
from trainer.engine import callbacks, lightning
from trainer.loss import LossSpec
from trainer.model import NetworkSpec
from trainer.run import TrainRequest, train
from trainer.training_spec import OptimizerSpec, TrainingSpec

TINY = NetworkSpec(backbone="convnext_atto")


def spec(epochs: int) -> TrainingSpec:
    return TrainingSpec(TINY, OptimizerSpec(warmup_epochs=1, max_epochs=epochs), LossSpec(), AugmentSpec())


@pytest.fixture
def request_(tmp_path: Path, catalog: str, monkeypatch: pytest.MonkeyPatch) -> TrainRequest:
    monkeypatch.setattr("featurestore.rows.CHUNK_ROWS", 8)
    (tmp_path / "raw").mkdir()
    corpus = Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), catalog)
    corpus.add(*range(20))
    report = corpus.build()
    return TrainRequest(str(corpus.store), report.version, tmp_path / "checkpoints", spec(2), batch_size=8)


class StopError(Exception):
    """Ends a run between two epochs."""


def silent(line: str) -> None:
    pass


def weights(path: str | Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    return state


def test_it_trains_measures_and_leaves_checkpoints_without_code(request_: TrainRequest) -> None:
    report = train(request_, silent)
    assert report.epochs == 2
    assert report.metrics["error_mean_m"] > 0
    assert 0 <= report.metrics["coverage_1_sigma"] <= 1
    for path in (report.best, report.last):
        checkpoint = read_checkpoint(path)
        assert checkpoint.training == request_.training
        assert 44 < checkpoint.region.latitude < 46
        assert checkpoint.features.version == request_.version
        assert checkpoint.network()(torch.zeros(2, 3, 128, 32)).shape == (2, 4)


class StopAt(callbacks.Callback):
    """Ends a run after a step of an epoch, with a checkpoint as a signal would leave it; or between two epochs."""

    def __init__(self, epoch: int, step: int | None, directory: Path) -> None:
        self._place, self._directory = (epoch, step), directory

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._place == (trainer.current_epoch, None):
            raise StopError

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self._place == (trainer.current_epoch, _[-1]):
            trainer.save_checkpoint(self._directory / "last.ckpt")
            raise StopError


@pytest.mark.parametrize(("epoch", "step"), [(1, None), (0, 2), (1, 0), (1, 4)])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(
    request_: TrainRequest, tmp_path: Path, epoch: int, step: int | None
) -> None:
    whole = train(request_, silent)
    directory = tmp_path / "resumed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.run.DataWait", lambda: StopAt(epoch, step, directory))
        with pytest.raises(StopError):
            train(replace(request_, directory=directory), silent)
    resumed = train(replace(request_, directory=directory, resume="last"), silent)
    first, second = weights(whole.last), weights(resumed.last)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_mlflow_gets_metrics_and_the_set(request_: TrainRequest, tmp_path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    report = train(replace(request_, tracking_uri=uri, training=spec(1)), silent)
    run = mlflow.MlflowClient(uri).get_run(str(report.run_id))
    assert run.data.tags["feature_set"] == request_.version
    assert run.data.metrics["val/loss"] == pytest.approx(report.val_loss, rel=1e-6)
    assert "data/wait_share" in run.data.metrics


def test_a_tracker_that_does_not_answer_is_noticed_before_the_first_epoch(request_: TrainRequest) -> None:
    with pytest.raises(ServiceUnavailableError, match="does not answer"):
        train(replace(request_, tracking_uri="sqlite:////proc/nothing/mlflow.db"), silent)


def test_a_checkpoint_that_is_not_there_is_named(request_: TrainRequest) -> None:
    with pytest.raises(UsageError, match="there is no checkpoint"):
        train(replace(request_, resume="last"), silent)


def test_the_command(request_: TrainRequest, tmp_path: Path) -> None:
    arguments = ["train", "--store", request_.store, "--backbone", "convnext_atto", "--epochs", "1", "--batch-size", "8"]
    where = ["--dir", str(tmp_path / "run"), "--no-tracking", "--json"]
    result = CliRunner().invoke(main, [*arguments, *where])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["epochs"] == 1
    assert Path(report["last"]).is_file()
