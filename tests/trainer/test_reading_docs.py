"""The examples in docs/reading.md run as they stand, one after the other, on a small set."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import pytest
from corpus_for_tests import Corpus

from featurestore.tensor.spec import FeatureSpec

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reading.md").read_text()


def test_the_examples_run(
    training_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 6
    program = "\n".join(examples).replace("s3://features", str(training_corpus.store))
    exec(compile(program, "reading.md", "exec"), {})
    out = capsys.readouterr().out
    spec: FeatureSpec = training_corpus.spec
    assert f"(4, {', '.join(map(str, spec.tensor_shape))}) float16" in out
    assert "heard by receivers [1, 2, 3] sent from [45." in out
    assert "('row', 'channel', 'mel', 'frame')" in out
    assert (tmp_path / "tensor.png").read_bytes().startswith(b"\x89PNG")
