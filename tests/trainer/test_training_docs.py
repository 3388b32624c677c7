"""The example in docs/training.md runs as it stands, on a small set; options that the page names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from corpus_for_tests import Corpus

from cli import main

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


def test_options_exist() -> None:
    known = {"--help"} | {
        name for command in ("train", "evaluate", "build-features") for p in main.commands[command].params for name in p.opts
    }
    named = set(re.findall(r"(--[a-z][a-z-]+)", PAGE))
    assert not named - known
