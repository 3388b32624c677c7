"""The code of docs/reading.md runs as it stands, on a small set, and shows that set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from corpus_for_tests import Corpus

from featurestore import open_set

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reading.md").read_text()


def test_the_code_of_the_reading_page_runs(
    training_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    monkeypatch.chdir(tmp_path)
    store = training_corpus.store.directory
    code = "\n".join(blocks).replace('"demo/store"', repr(str(store)))
    exec(compile(code, "reading.md", "exec"), {})
    out = capsys.readouterr().out
    features = open_set(str(store))
    assert out.startswith(f"{features.version} {features.spec.tensor_shape} ")
    assert all(segment.segment in out for segment in features.segments)
    assert (tmp_path / "session.png").read_bytes().startswith(b"\x89PNG")
    mean = re.search(r"mean magnitude: (\S+)", out)
    assert mean is not None
    assert abs(float(mean[1])) < 0.05
