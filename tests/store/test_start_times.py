"""Start times: labels of a set where they are known, and nothing at all where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpus_for_tests import Corpus, tree
from damage_for_tests import flip

from featurestore import open_set
from featurestore.care.compact.compact import CompactRequest, compact
from featurestore.care.gc.inventory import take_inventory
from featurestore.care.repair.repair import RepairRequest, repair
from featurestore.care.verify.verify import verify
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Silent
from featurestore.source.snapshot import NO_TIMESTAMP
from featurestore.store.sets import TIMES

START = 1_597_301_541_000_000_123
"""No float64 holds it."""


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    (tmp_path / "raw").mkdir()
    corpus = Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), catalog)
    corpus.add(*range(8))
    return corpus


def test_times_are_labels_that_cost_no_tensor_and_go_as_they_came(corpus: Corpus) -> None:
    before = corpus.build()
    plain = open_set(corpus.store.url).labels
    assert (plain.start_time_ns == NO_TIMESTAMP).all()
    assert np.isnan(plain.time_sigma_s).all()
    assert not any((corpus.store.directory / "sets" / before.version / name).exists() for name in TIMES)

    corpus.sql(f"UPDATE measurements SET start_time_ns = {START} + id, time_sigma_s = 1e-7 * id WHERE id % 2 = 1")
    timed = corpus.build()
    assert (timed.computed, timed.version != before.version) == (0, True)
    opened = open_set(corpus.store.url)
    ids, labels = opened.fact("capture_id"), opened.labels
    np.testing.assert_array_equal(labels.start_time_ns, np.where(ids % 2 == 1, START + ids, NO_TIMESTAMP))
    np.testing.assert_allclose(labels.time_sigma_s, np.where(ids % 2 == 1, 1e-7 * ids, np.nan), rtol=1e-15)
    dataset = opened.to_xarray()
    np.testing.assert_array_equal(dataset.start_time.values, labels.start_time_ns.astype("datetime64[ns]"))

    corpus.sql("UPDATE measurements SET start_time_ns = NULL, time_sigma_s = NULL")
    assert corpus.build().version == before.version


def test_a_set_with_times_is_looked_after_like_any_other(corpus: Corpus) -> None:
    corpus.build()
    corpus.add(9)
    corpus.sql(f"UPDATE measurements SET start_time_ns = {START}, time_sigma_s = 1e-7 WHERE websdr_id = 2")
    report = corpus.build()
    assert not take_inventory(open_objects(corpus.store.url)).unknown
    sound = tree(corpus.store.directory)
    for name in TIMES:
        flip(corpus.store.directory / "sets" / report.version / name / "c" / "0")
    assert len(verify(corpus.store.url).problems) == len(TIMES)
    repair(RepairRequest(corpus.store, "latest", corpus.raw, corpus.catalog), Silent())
    assert tree(corpus.store.directory) == sound

    compacted = compact(CompactRequest(corpus.store.url, workers=0), Silent())
    assert compacted.version == corpus.build().version
    labels = open_set(corpus.store.url).labels
    assert (labels.start_time_ns == np.where(open_set(corpus.store.url).fact("websdr_id") == 2, START, NO_TIMESTAMP)).all()
