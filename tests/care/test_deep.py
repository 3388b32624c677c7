"""`features verify --deep`: rows are computed from IQ again; what differs, and what can't be compared, is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import independent
import numpy as np
import pytest
import scipy.fft
from click.testing import CliRunner
from corpus_for_tests import SMALL, Corpus, tree
from damage_for_tests import flip, forge, segment_path
from hypothesis import given
from hypothesis import strategies as st

from cli import main
from featurestore import open_set
from featurestore.care.verify.agreement import features_agree, logmel_difference
from featurestore.care.verify.deep import DeepCheck, DeepReport, spread
from featurestore.care.verify.verify import Verification, verify
from featurestore.errors import StoreError
from featurestore.objects.objects import Location
from featurestore.store.segments import features_name


@pytest.fixture
def corpus(tmp_path: Path, catalog: str, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Two windows per capture, two segments of several chunks; the keys of some captures are the catalog's own."""
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    (tmp_path / "raw").mkdir()
    raw, store = Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store"))
    corpus = Corpus(raw, store, catalog, replace(SMALL, windows_per_capture=2))
    corpus.add(0, 1, 2, 3)
    corpus.add(4, dtype="complex64")
    for session in (2, 3):
        corpus.objects().put(f"mine/{session}.npy", corpus.objects().get(corpus.key(session, 1)))
        corpus.objects().delete([corpus.key(session, 1)])
        corpus.sql(f"UPDATE measurements SET iq_key = 'mine/{session}.npy' WHERE websdr_id = 1 AND latitude = 45.0{session}")
    corpus.add(30, broken="silent")
    corpus.build(max_rejected_fraction=1.0)
    corpus.add(20, 21)
    corpus.build(max_rejected_fraction=1.0)
    return corpus


def check(corpus: Corpus, rows: int = 1000, seed: int = 0) -> tuple[Verification, DeepReport]:
    found = verify(corpus.store.url, deep=DeepCheck(corpus.raw, rows, seed))
    assert isinstance(found.deep, DeepReport)
    return found, found.deep


def test_rows_are_what_the_recordings_say_and_no_catalog_is_asked(corpus: Corpus) -> None:
    corpus.sql("DROP TABLE measurements")
    before = tree(corpus.store.directory)
    found, deep = check(corpus)
    assert found.problems == ()
    assert deep == DeepReport(42, 42, 0, (), 0, 0.0)
    assert check(corpus, rows=5)[1].rows == 5
    assert tree(corpus.store.directory) == before


@given(st.integers(1, 3000), st.integers(1, 300), st.integers(0, 2**31))
def test_a_sample_is_spread_over_all_rows(n: int, count: int, seed: int) -> None:
    rows = spread(n, count, seed)
    assert len(rows) == min(n, count)
    assert rows.tolist() == sorted(set(rows.tolist()))
    edges = [*rows.tolist(), n]
    assert rows.tolist() == spread(n, count, seed).tolist()
    assert all(after - before <= 2 * -(-n // len(rows)) for before, after in zip([-1, *edges], edges, strict=False))


def test_another_seed_gives_other_rows() -> None:
    assert spread(1000, 10, 0).tolist() != spread(1000, 10, 1).tolist()


def test_log_mel_that_other_code_computed_is_found(corpus: Corpus) -> None:
    """All checksums fit; 0.005 dB is allowed, 0.1 dB is not."""
    path = forge(corpus, "logmel", 1, 0.005)
    found, deep = check(corpus)
    assert found.problems == ()
    assert deep.largest_db == pytest.approx(0.005, rel=0.01)
    forge(corpus, "logmel", 1, 0.095)
    assert verify(corpus.store.url).problems == ()
    found, deep = check(corpus)
    reason = open_set(corpus.store.url).objects.get(f"{segment_path(corpus)}/reason/c/0")[8:16]
    assert deep.differ == len(found.problems) == sum(code == 0 for code in reason)
    assert {(problem.kind, problem.url) for problem in found.problems} == {("differs", f"{corpus.store}/{path}")}
    assert "its log-mel differs by 0.1 dB, 0.01 dB allowed" in found.problems[0].detail
    held = open_set(corpus.store.url).fact("capture_id")[8:16].tolist()
    assert {capture for problem in found.problems for capture in problem.captures} <= set(held)
    with pytest.raises(StoreError, match="build again into an empty --store"):
        found.require_sound()


def test_features_that_are_not_those_of_their_log_mel_are_found(corpus: Corpus) -> None:
    path = forge(corpus, features_name(open_set(corpus.store.url).basis.id), 0, 0.5)
    found, deep = check(corpus)
    assert deep.differ == len(found.problems) > 0
    assert {problem.url for problem in found.problems} == {f"{corpus.store}/{path}"}
    assert "its features are not what that normalizes to" in found.problems[0].detail


def test_recordings_that_are_gone_or_replaced_are_named_and_not_compared(corpus: Corpus) -> None:
    gone, replaced = (0, 2), (1, 3)
    ids = {(entry[0].name, entry[1]): capture for capture, entry in corpus.captures().items()}
    wanted = sorted(ids[Path(corpus.key(*key)).name, corpus.records[key].session_id] for key in (gone, replaced))
    (corpus.raw.directory / corpus.key(*gone)).unlink()
    corpus.replace(*replaced)
    found, deep = check(corpus)
    assert (found.problems, deep.not_found, deep.rows) == ((), tuple(wanted), 38)
    assert f"captures {wanted[0]}, {wanted[1]}" in "\n".join(found.lines())


def test_rows_of_damaged_chunks_are_left_out(corpus: Corpus) -> None:
    flip(corpus.store.directory / segment_path(corpus) / "logmel/c/0/0/0/0")
    found, deep = check(corpus)
    (problem,) = found.problems
    assert problem.kind == "damaged"
    assert deep.rows + deep.skipped == 42
    assert deep.skipped > 0
    flip(corpus.store.directory / segment_path(corpus) / "window/c/0")
    assert verify(corpus.store.url, deep=DeepCheck(corpus.raw)).deep is None  # there is no telling which rows these are


def test_the_command_compares_and_needs_to_know_where_recordings_are(corpus: Corpus) -> None:
    arguments = ["features", "verify", "--store", corpus.store.url, "--deep", "--quiet"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "say where those are with --raw" in result.stderr
    result = CliRunner().invoke(main, [*arguments, "--raw", corpus.raw.url, "--rows", "9"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "  9 of 42 rows computed from IQ again: 0 differ" in result.stdout.splitlines()
    forge(corpus, "logmel", 0, 1)
    result = CliRunner().invoke(main, [*arguments, "--raw", corpus.raw.url, "--json"])
    report = json.loads(result.stdout)
    assert (result.exit_code, report["sound"], report["deep"]["largest_db"]) == (1, False, pytest.approx(1, rel=1e-4))


@pytest.mark.parametrize("n_mfcc", [0, 6])
def test_agreement_accepts_float64_and_nothing_beyond_its_tolerance(tmp_path: Path, catalog: str, n_mfcc: int) -> None:
    """Against an independent computation."""
    (tmp_path / "raw").mkdir()
    spec = replace(SMALL, n_mfcc=n_mfcc)
    corpus = Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), catalog, spec)
    corpus.add(0, 1, 2)
    corpus.build()
    found, deep = check(corpus)
    assert (found.problems, deep.rows) == ((), 9)
    plain, captures = independent.open_plainly(corpus.store.directory), corpus.captures()
    ids = plain.columns["capture_id"].tolist()
    exact = np.stack([independent.log_mel(np.load(captures[i][0]), plain.spec, 0) for i in ids]).astype(np.float32)
    stored = scipy.fft.dct(exact, type=2, norm="ortho", axis=2)[:, :, :n_mfcc] if n_mfcc else exact
    normalized = (stored - plain.mean[..., None]) / plain.std[..., None]
    assert (logmel_difference(plain.logmel, exact) < 0.01).all()
    assert features_agree(spec, plain.features, exact, normalized, plain.std).all()
    beyond = (0.02 * np.sqrt(spec.n_mels) if n_mfcc else 0.02) / plain.std[..., None] + np.abs(normalized) / 512
    assert not features_agree(spec, (normalized + beyond).astype(np.float16), exact, normalized, plain.std).any()
    broken = plain.features.copy()
    broken[:, 0, 0, 0] = np.nan
    assert not features_agree(spec, broken, exact, normalized, plain.std).any()
    assert np.isnan(logmel_difference(np.full_like(exact, np.nan), exact)).all()
