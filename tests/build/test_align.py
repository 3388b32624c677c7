"""`--align session`: a window is the same moment at all receivers of a session, as far as their clocks say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corpus_for_tests import N_SAMPLES, RECEIVERS, SMALL, Corpus
from damage_for_tests import flip
from independent import log_mel, open_plainly

from featurestore.care.repair.repair import RepairRequest, repair
from featurestore.care.verify.deep import DeepCheck, DeepReport
from featurestore.care.verify.verify import verify
from featurestore.errors import UsageError
from featurestore.objects.objects import Location
from featurestore.progress import Silent
from featurestore.tensor.spec import FeatureSpec

ALIGNED = replace(SMALL, align="session", windows_per_capture=2)
RATE = SMALL.sample_rate_hz
LATE = (0, 7, 13)
"""Samples by which each receiver begins later than the first, in the first session."""


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    """Six sessions; of the first, all receivers have a time, of the second, one has."""
    (tmp_path / "raw").mkdir()
    corpus = Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), catalog, ALIGNED)
    corpus.add(*range(6))
    for receiver, late in enumerate(LATE, start=1):
        start = 1_700_000_000_000_000_000 + round(late / RATE * 1e9)
        corpus.sql(f"UPDATE measurements SET start_time_ns = {start} WHERE id = {receiver}")
    corpus.sql("UPDATE measurements SET start_time_ns = 1700000000000000000 WHERE id = 4")
    return corpus


def test_windows_begin_at_one_instant_where_times_are_known(corpus: Corpus) -> None:
    corpus.build()
    opened = open_plainly(corpus.store.directory)
    assert opened.spec["align"] == "session"
    shared = N_SAMPLES - max(LATE) - 1
    for row in opened.served:
        capture, window = int(opened.columns["capture_id"][row]), int(opened.columns["window"][row])
        session, receiver = divmod(capture - 1, RECEIVERS)
        z = corpus.samples(session, receiver + 1)
        if session == 0:
            first = max(LATE) - LATE[receiver]  # the sample that was taken when the last receiver began
            z = z[first : first + shared]
        exact = log_mel(z, opened.spec, window)
        np.testing.assert_allclose(opened.logmel[row], exact, atol=0.01)
    assert corpus.build().computed == 0


def test_a_time_that_is_corrected_computes_its_session_anew_and_nothing_else(corpus: Corpus) -> None:
    first = corpus.build()
    corpus.sql("UPDATE measurements SET start_time_ns = start_time_ns + 1000000 WHERE id = 2")
    assert corpus.build().computed == 2 * RECEIVERS
    corpus.sql("UPDATE measurements SET start_time_ns = start_time_ns - 1000000 WHERE id = 2")
    again = corpus.build()
    assert (again.computed, again.rows) == (0, first.rows)


def test_verify_deep_and_repair_compute_aligned_windows_again(corpus: Corpus) -> None:
    corpus.build()
    deep = DeepCheck(corpus.raw, 1000, catalog=corpus.catalog)
    found = verify(corpus.store.url, deep=deep)
    n_rows = 6 * RECEIVERS * 2
    assert (found.problems, found.deep) == ((), DeepReport(n_rows, n_rows, 0, (), 0, 0.0))
    [chunk] = corpus.store.directory.glob("specs/*/segments/*/logmel/c/0/0/0/0")
    before = chunk.read_bytes()
    flip(chunk)
    assert repair(RepairRequest(corpus.store, "latest", corpus.raw, corpus.catalog), Silent()).sound
    assert chunk.read_bytes() == before
    corpus.sql("UPDATE measurements SET start_time_ns = start_time_ns + 1000000 WHERE id = 2")
    found = verify(corpus.store.url, deep=deep)
    assert (found.problems, found.deep) == ((), DeepReport(n_rows - 2 * RECEIVERS, n_rows, 0, (1, 2, 3), 0, 0.0))


def test_recordings_that_share_too_little_keep_their_windows(corpus: Corpus) -> None:
    corpus.sql("UPDATE measurements SET start_time_ns = start_time_ns + 1000000000000 WHERE id = 3")
    corpus.build()
    aligned = open_plainly(corpus.store.directory)
    corpus.build(spec=replace(ALIGNED, align="none"))
    plain = open_plainly(corpus.store.directory)
    order = [np.lexsort((each.columns["window"], each.columns["capture_id"])) for each in (aligned, plain)]
    np.testing.assert_array_equal(aligned.logmel[order[0]], plain.logmel[order[1]])


def test_specs_of_before_keep_their_name_and_are_read() -> None:
    old = FeatureSpec().to_json()
    assert "align" not in old
    assert FeatureSpec.from_json(old, "it") == FeatureSpec(align="none")
    assert FeatureSpec(align="session").id != FeatureSpec().id
    assert FeatureSpec.from_json(FeatureSpec(align="session").to_json(), "it").align == "session"
    with pytest.raises(UsageError, match="align is 'moon'; expected none or session"):
        FeatureSpec(align="moon")
