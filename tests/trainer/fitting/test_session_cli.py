"""Sessions through the command line: train, go on, evaluate, page; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from corpus_for_tests import Corpus

from cli import main
from trainer.network.checkpoints import read_checkpoint

SMALL = ["--grid-km", "10", "--batch-size", "4", "--accelerator", "cpu", "--no-tracking", "--quiet"]


def run(*arguments: str, code: int = 0) -> str:
    found = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert found.exit_code == code, found.output
    return found.output


def train(corpus: Corpus, directory: Path, *more: str) -> Path:
    run("train", "--store", str(corpus.store), "--features", "small", "--dir", str(directory), *SMALL, *more)
    return directory / "last.ckpt"


@pytest.fixture(scope="module", params=["radio-map", "attention"])
def trained(request: pytest.FixtureRequest, training_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("session") / "checkpoints"
    return train(training_corpus, directory, "--fusion", request.param, "--epochs", "2")


def test_sessions_are_located_unless_asked_otherwise(trained: Path) -> None:
    checkpoint = read_checkpoint(trained)
    assert checkpoint.training.session is not None
    assert checkpoint.place is not None
    assert checkpoint.describe()["receivers"] == checkpoint.place.websdr_id.tolist()


def test_evaluation_counts_sessions(trained: Path, training_corpus: Corpus, tmp_path: Path) -> None:
    page, table = tmp_path / "page.html", tmp_path / "sessions.csv"
    files = ["--html", str(page), "--predictions", str(table), "--out", str(tmp_path / "out")]
    again = ["--against", str(trained), "--k", "2", "--json", "--quiet"]
    out = json.loads(run("evaluate", str(trained), "--store", str(training_corpus.store), *files, *again))
    assert out["located"] == "session"
    assert out["sessions"] < out["rows"]
    groups = out["metrics"]["by_receivers_present"]
    assert list(groups) == [str(n + 1) for n in range(len(groups))]
    most = max(groups, key=int)
    assert groups[most]["error_mean_m"] == pytest.approx(out["metrics"]["error_mean_m"], rel=1e-3)
    assert out["baselines"]["against"]["error_mean_m"] == pytest.approx(out["metrics"]["error_mean_m"], rel=1e-3)
    assert {"k_nearest", "predict_the_mean"} <= set(out["baselines"])
    assert len(table.read_text().splitlines()) == out["sessions"] + 1
    text = page.read_text()
    assert "Posteriors" in text
    assert ("Radio maps" in text) == ("radio-map" in out["checkpoint"]["training"]["session"]["fusion"])
    assert (tmp_path / "out" / "posteriors.png").is_file()


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # on purpose: the first run stays as it was
def test_going_on_is_exact(trained: Path, training_corpus: Corpus, tmp_path: Path) -> None:
    """The second epoch of a run, begun again from the checkpoint of the first, gives the same weights to the bit."""
    fusion = read_checkpoint(trained).training.session
    assert fusion is not None
    first = next(trained.parent.glob("epoch=000*.ckpt"))
    directory = tmp_path / "again"
    train(training_corpus, directory, "--fusion", fusion.fusion, "--epochs", "2", "--resume", str(first))
    one, other = read_checkpoint(trained).weights, read_checkpoint(directory / "last.ckpt").weights
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_an_excluded_receiver_is_not_known(training_corpus: Corpus, tmp_path: Path) -> None:
    checkpoint = train(training_corpus, tmp_path / "without", "--epochs", "1", "--exclude-receiver", "1")
    place = read_checkpoint(checkpoint).place
    assert place is not None
    assert 1 not in place.websdr_id.tolist()
    said = run("evaluate", str(checkpoint), "--store", str(training_corpus.store), "--quiet", "--k", "0")
    assert "receiver 1 was not in training" in said


def test_a_capture_network_is_no_session_network(training_corpus: Corpus, tmp_path: Path) -> None:
    checkpoint = train(
        training_corpus, tmp_path / "capture", "--locate", "capture", "--backbone", "test_convnext2", "--epochs", "1"
    )
    said = run("evaluate", str(checkpoint), "--store", str(training_corpus.store), "--against", str(checkpoint), code=2)
    assert "--against compares networks for sessions" in said
