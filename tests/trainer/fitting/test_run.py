"""Training end to end on a small set: it learns, it resumes exactly, it leaves checkpoints that hold no code."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from corpus_for_tests import SMALL, Corpus
from trainings_for_tests import tiny_training

from cli import main
from featurestore.errors import HeimdallError, UsageError
from featurestore.objects.objects import Location
from featurestore.progress import Silent
from featurestore.store.feature_set import open_set
from featurestore.tensor.spec import SplitSpec
from trainer import TrainReport, TrainRequest, fit, read_checkpoint
from trainer.fitting.engine import callbacks, lightning
from trainer.fitting.request import Hardware
from trainer.network.checkpoints import Checkpoint
from trainer.network.network_spec import NetworkSpec
from trainer.network.training_spec import AugmentSpec, OptimizerSpec, TrainingSpec


def trained(request: TrainRequest) -> TrainReport:
    report = fit(request)
    assert report is not None
    return report


def same_weights(first: Checkpoint, second: Checkpoint) -> bool:
    assert first.weights.keys() == second.weights.keys()
    return all(torch.equal(tensor, second.weights[name]) for name, tensor in first.weights.items())


def test_it_trains_measures_and_leaves_checkpoints_without_code(tiny: TrainRequest) -> None:
    report = trained(tiny)
    assert report.epochs == 2
    assert report.metrics["error_mean_m"] > 0
    assert 0 <= report.metrics["coverage_1_sigma"] <= 1
    for path in (report.best, report.last):
        checkpoint = read_checkpoint(path)
        assert checkpoint.training == tiny.training
        assert 44 < checkpoint.region.latitude < 46
        assert checkpoint.features.version == report.version
        assert checkpoint.features.spec == SMALL
        assert checkpoint.network()(torch.zeros(2, *SMALL.tensor_shape)).shape == (2, 4)
    assert read_checkpoint(report.last).step == 12


def test_it_learns_a_set_by_heart(tiny: TrainRequest) -> None:
    """The loss falls when nothing is dropped or changed, on the very rows it is trained on."""
    optimizer = OptimizerSpec(warmup_epochs=1, max_epochs=8)
    spec = TrainingSpec(NetworkSpec("convnext_atto", dropout=0, drop_path=0), optimizer, augment=AugmentSpec(0, 0, 0, 0))
    losses: list[float] = []

    class Watch(callbacks.Callback):
        def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            losses.append(float(trainer.callback_metrics["train/loss"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.fitting.run.EpochProgress", lambda _: Watch())
        trained(replace(tiny, training=spec))
    assert losses[-1] < losses[0] - 0.4  # nats


@pytest.mark.parametrize("batch_size", [8, 40])
def test_waiting_is_a_share_of_the_epoch_also_when_it_has_one_step(tiny: TrainRequest, batch_size: int) -> None:
    said: list[str] = []

    class Said(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    assert fit(replace(tiny, batch_size=batch_size, training=tiny_training(3)), Said()) is not None
    epochs = [line for line in said if line.startswith("epoch ")]
    assert len(epochs) == 3
    for line in epochs:
        rate, share = re.findall(r"([\d,]+) rows/s, ([\d.]+)% waiting for data", line)[0]
        assert 1 <= float(rate.replace(",", "")) < 100_000
        assert float(share) <= 100


class StopError(Exception):
    """Ends a run, as a lost machine would."""


class StopAt(callbacks.Callback):
    """Ends a run behind a step of an epoch, with a checkpoint as a signal would leave it; or between two epochs."""

    def __init__(self, epoch: int, step: int | None, path: Path) -> None:
        self._place, self._path = (epoch, step), path

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._place == (trainer.current_epoch, None):
            raise StopError

    def on_train_batch_end(self, trainer: lightning.Trainer, *arguments: Any) -> None:
        if self._place == (trainer.current_epoch, arguments[-1]):
            trainer.save_checkpoint(self._path)
            raise StopError


@pytest.mark.parametrize(("epoch", "step"), [(2, None), (1, 0), (1, 4)])
def test_a_resumed_run_ends_with_the_same_weights_and_losses_bit_for_bit(
    tiny: TrainRequest, epoch: int, step: int | None
) -> None:
    """With dropout, stochastic depth and augmentation: all of them draw from the place in the run."""
    request = replace(tiny, training=tiny_training(3))
    histories: list[dict[int, dict[str, float]]] = [{}, {}]

    class Watch(callbacks.Callback):
        def __init__(self, run: int) -> None:
            self._run = run

        def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            found = {name: float(value) for name, value in trainer.callback_metrics.items()}
            histories[self._run][trainer.current_epoch] = {
                name: value for name, value in found.items() if not name.startswith("data/")
            }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.fitting.run.EpochProgress", lambda _: Watch(0))
        whole = trained(request)
        patch.setattr("trainer.fitting.run.EpochProgress", lambda _: Watch(1))
        again = replace(request, directory=request.directory.parent / "resumed")
        patch.setattr("trainer.fitting.run.StopOnSignal", lambda *_: StopAt(epoch, step, again.last))
        with pytest.raises(StopError):
            fit(again)
        patch.setattr("trainer.fitting.run.StopOnSignal", lambda *_: callbacks.Callback())
        resumed = trained(replace(again, resume="last"))
    assert same_weights(read_checkpoint(whole.last), read_checkpoint(resumed.last))
    assert histories[0] == histories[1]
    assert whole.best_val_loss == resumed.best_val_loss


def test_the_last_checkpoint_is_of_the_last_epoch_also_when_it_was_a_bad_one(tiny: TrainRequest) -> None:
    request = replace(tiny, training=replace(tiny.training, optimizer=OptimizerSpec(0.3, warmup_epochs=0, max_epochs=5)))
    report = trained(request)
    assert read_checkpoint(report.last).epoch == 4
    assert len(list(tiny.directory.glob("epoch=*.ckpt"))) == 3


def test_checkpoints_of_two_runs_are_not_mixed(tiny: TrainRequest) -> None:
    trained(replace(tiny, training=tiny_training(1)))
    with pytest.raises(UsageError, match=r"holds checkpoints of an earlier run \(epoch=000.ckpt, last.ckpt\).*--resume last"):
        fit(tiny)


def test_a_run_can_be_prolonged_and_says_what_changed(tiny: TrainRequest) -> None:
    trained(replace(tiny, training=tiny_training(1)))
    said: list[str] = []

    class Notes:
        def start(self, stage: str, total: int, unit: str) -> None: ...
        def advance(self, units: int, n_bytes: int = 0) -> None: ...
        def say(self, line: str) -> None:
            said.append(line)

    report = fit(replace(tiny, resume="last"), Notes())
    assert report is not None
    assert report.epochs == 2
    assert any(line.startswith("note: optimizer.max_epochs was 1, and is 2") for line in said)
    with pytest.raises(UsageError, match=r"is complete: 2 epochs; go on with more --epochs"):
        fit(replace(tiny, resume="last"))


def test_a_loss_that_stays_without_a_number_names_rows_and_stops_the_run(
    tiny: TrainRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = OptimizerSpec(learning_rate=1e30, warmup_epochs=0, max_epochs=3)
    with pytest.raises(HeimdallError, match=r"5 steps in a row.*rows \d+, \d+.*lower --learning-rate"):
        fit(replace(tiny, training=replace(tiny.training, optimizer=optimizer)))
    assert "the step is skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"version": "nothing"}, "no feature set"),
        ({"resume": "last"}, "there is no checkpoint"),
        ({"batch_size": 1000}, "the train split of .* has .* rows; expected at least 1000"),
        ({"hardware": Hardware(accelerator="abacus")}, "accelerator 'abacus'.* not available here"),
        ({"hardware": Hardware(accelerator="gpu")}, "not available here"),
        ({"hardware": Hardware(accelerator="cpu", devices="many")}, "devices 'many'.* not available here"),
        ({"upload_to": "file:///nowhere/at/all"}, "is no directory"),
    ],
)
def test_what_cannot_be_done_is_said_before_training(tiny: TrainRequest, change: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        fit(replace(tiny, **change))


def test_an_empty_split_is_named(training_corpus: Corpus, tiny: TrainRequest) -> None:
    training_corpus.build(split=SplitSpec(val_fraction=0.0), tag="no-val")
    with pytest.raises(UsageError, match=r"the val split of .* has 0 rows"):
        fit(replace(tiny, version="no-val"))


def test_a_checkpoint_of_other_features_or_of_another_network_is_refused(training_corpus: Corpus, tiny: TrainRequest) -> None:
    request = replace(tiny, training=tiny_training(1))
    trained(request)
    training_corpus.build(spec=replace(SMALL, hop_length=32), tag="other")
    with pytest.raises(UsageError, match=r"hop_length 64 \(the set has 32\)"):
        fit(replace(request, version="other", resume="last"))
    femto = TrainingSpec(NetworkSpec("convnext_femto"))
    with pytest.raises(UsageError, match=r"holds a network .*test_convnext2.*convnext_femto"):
        fit(replace(request, training=femto, resume="last"))
    with pytest.raises(UsageError, match=r"with batch size 8, this run has 4"):
        fit(replace(request, batch_size=4, resume="last"))


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "damaged, cut short or no checkpoint"),
        (lambda path: path.write_bytes(b""), "damaged, cut short or no checkpoint"),
        (lambda path: path.write_text("a text\n"), "damaged, cut short or no checkpoint"),
        (lambda path: torch.save({"anything": Path("x")}, path), "could run code"),
        (lambda path: torch.save({"state_dict": {}}, path), "is no checkpoint of heimdall train"),
    ],
)
def test_a_spoilt_checkpoint_is_refused(tiny: TrainRequest, spoil: Any, match: str) -> None:
    trained(replace(tiny, training=tiny_training(1)))
    spoil(tiny.last)
    with pytest.raises(UsageError, match=match):
        fit(replace(tiny, resume="last"))


def test_the_command_on_files_and_on_s3(
    tiny: TrainRequest, training_corpus: Corpus, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    Corpus(training_corpus.raw, Location.parse(f"{bucket}/features"), training_corpus.catalog).build(tag="small")
    assert open_set(f"{bucket}/features", "small").version == open_set(tiny.store, "small").version
    options = ["--backbone", "test_convnext2", "--epochs", "1", "--batch-size", "8", "--no-tracking", "--json", "--quiet"]
    losses = []
    for number, store in enumerate((tiny.store, f"{bucket}/features")):
        where = ["--store", store, "--features", "small", "--dir", str(tmp_path / f"run{number}")]
        result = CliRunner().invoke(main, ["train", *where, *options])
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert report["epochs"] == 1
        assert Path(report["last"]).is_file()
        losses.append(report["val_loss"])
    assert losses[0] == losses[1]
