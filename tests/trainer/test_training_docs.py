"""The example in docs/training.md runs as it stands, on a small set; options that the page names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from corpus_for_tests import Corpus

from cli import main
from trainer.network.model import LocalizationNet
from trainer.network.network_spec import SIZES, NetworkSpec
from trainer.sweep.defaults import GRID, RANGES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()


def test_the_example_runs(
    training_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace("s3://features", str(training_corpus.store)), "training.md", "exec"), {})
    out = capsys.readouterr().out
    assert "torch.Size([16, 3, 24, 8])" in out
    assert "predict the mean" in out
    assert " degrees\n" in out
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_sizes_of_the_networks() -> None:
    table = re.findall(r"^\| `(\w+)` \| ([\d.]+) M \|$", PAGE, re.MULTILINE)
    assert [name for name, _ in table] == ["convnext_atto", *SIZES]
    for name, millions in table:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in LocalizationNet(NetworkSpec(name)).parameters())
        assert f"{count / 1e6:.1f}" == millions, name


def test_what_is_searched_by_default() -> None:
    lines = [line for line in PAGE.splitlines() if "`learning_rate=" in line]
    assert [tuple(re.findall(r"`(\w+=[^`]+)`", line)) for line in lines] == [GRID, RANGES]


def test_options_exist() -> None:
    """Also of those that stand without their command."""
    commands = ("train", "evaluate", "build-features", "sweep")
    known = {name for command in commands for parameter in main.commands[command].params for name in parameter.opts}
    named = set(re.findall(r"(--[a-z][a-z-]+)", PAGE))
    assert not named - known - {"--help", "--models", "--sessions"}  # the last is of a bench
