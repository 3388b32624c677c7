"""A training that is told to stop, as a process of its own: it saves, says so, and goes on exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from corpus_for_tests import Corpus
from trainings_for_tests import tiny_training

from trainer import TrainRequest, fit, read_checkpoint
from trainer.fitting.request import Hardware

ROOT = Path(__file__).resolve().parents[3]
EPOCHS = 4000
"""More than anybody waits for, however late the signal comes on a busy machine."""


def command(corpus: Corpus, directory: Path, *options: str) -> list[str]:
    where = ["--store", str(corpus.store), "--features", "small", "--dir", str(directory), "--accelerator", "cpu"]
    what = ["--backbone", "test_convnext2", "--batch-size", "8", "--epochs", str(EPOCHS), "--warmup-epochs", "1"]
    return [sys.executable, "-m", "cli", "train", *where, *what, "--no-tracking", *options]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: sums are rounded differently on two threads
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"epoch {epoch}/"):
            return
    pytest.fail(f"it ended with {process.wait()} before epoch {epoch}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_goes_on_exactly(
    training_corpus: Corpus, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start(command(training_corpus, tmp_path / "run"))
    wait_for_epoch(process, 1)
    time.sleep(0.3)  # into an epoch, somewhere
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: interrupted; ")
    assert "--resume last goes on exactly there" in err
    interrupted = read_checkpoint(tmp_path / "run" / "last.ckpt")

    # The rest of the epoch in which it stopped, and one more; against as many without a stop.
    training = tiny_training(EPOCHS)

    class EnoughError(Exception):
        """Two epochs later."""

    last = interrupted.epoch + 1
    weights = []
    for directory, resume in ((tmp_path / "run", "last"), (tmp_path / "whole", None)):
        request = TrainRequest(
            str(training_corpus.store),
            "small",
            directory,
            training,
            batch_size=8,
            hardware=Hardware(accelerator="cpu"),
            resume=resume,
        )

        def stop_behind(trainer: object, module: object, last: int = last) -> None:
            if getattr(trainer, "current_epoch") > last:  # noqa: B009
                raise EnoughError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trainer.fitting.callbacks.EpochProgress.on_train_epoch_start", lambda _, *a: stop_behind(*a))
            with pytest.raises(EnoughError):
                fit(request)
        weights.append(read_checkpoint(request.last).weights)
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_second_signal_stops_at_once(training_corpus: Corpus, tmp_path: Path) -> None:
    process = start(command(training_corpus, tmp_path / "run"))
    wait_for_epoch(process, 1)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "Traceback" not in err
