"""`features diff` and `features tag`: one change after another, each found where it is and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from corpus_for_tests import SMALL, Corpus, session_id

from cli import main
from featurestore import open_set
from featurestore.errors import UsageError
from featurestore.look.diff import Difference, difference
from featurestore.objects.objects import Location
from featurestore.tensor.spec import SplitSpec


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    """Captures 1 to 24 of sessions 0 to 7, and a set of them that is tagged `base`."""
    (tmp_path / "raw").mkdir()
    raw, store = Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store"))
    corpus = Corpus(raw, store, catalog)
    corpus.add(*range(8))
    corpus.build(tag="base")
    return corpus


def differs(corpus: Corpus) -> Difference:
    """Of the latest set from `base`, and the other way round."""
    store = corpus.store.url
    found, back = difference(store, "base", "latest"), difference(store, "latest", "base")
    assert (back.added, back.removed, back.changed) == (found.removed, found.added, found.changed)
    assert back.relabelled == found.relabelled
    assert back.counts == {name: pair[::-1] for name, pair in found.counts.items()}
    return found


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["features", *arguments])


def test_a_set_does_not_differ_from_itself(corpus: Corpus) -> None:
    version = open_set(corpus.store.url).version
    assert differs(corpus) == Difference(version, version, {}, {}, [], [], [], {}, {}, None)
    assert "one and the same" in command("diff", "base", "latest", "--store", corpus.store.url).stdout


def test_captures_added_removed_changed_and_relabelled(corpus: Corpus) -> None:
    corpus.add(20)  # 25, 26, 27
    corpus.replace(2, 2)  # 8
    corpus.sql("UPDATE measurements SET approved = false WHERE id = 5")
    corpus.sql("UPDATE measurements SET latitude = latitude + 0.001 WHERE id IN (3, 4)")
    corpus.sql("UPDATE measurements SET snr_db = NULL WHERE id = 4")
    corpus.build(refit="never")
    found = differs(corpus)
    assert (found.added, found.removed, found.changed) == ([25, 26, 27], [5], [8])
    assert found.relabelled == {"position": [3, 4], "snr_db": [4]}
    assert (found.parameters, found.moved, found.statistics) == ({}, {}, None)
    assert found.counts["rows"] == found.counts["captures"] == (24, 26)


def test_a_corrected_session_is_a_label_and_unknown_labels_are_equal(corpus: Corpus) -> None:
    corpus.sql("UPDATE measurements SET snr_db = NULL")
    corpus.build(tag="base")
    corpus.sql(f"UPDATE measurements SET session_id = '{session_id(50)}', iq_key = '{corpus.key(0, 1)}' WHERE id = 1")
    corpus.build(refit="never")
    found = differs(corpus)
    assert (found.added, found.removed, found.changed) == ([], [], [])
    assert found.relabelled == {"session_id": [1]}


def test_rejections_are_counted(corpus: Corpus) -> None:
    corpus.add(20, broken="silent")
    corpus.build(max_rejected_fraction=1.0)
    found = differs(corpus)
    assert found.counts == {"captures": (24, 27), "rejected.silent": (0, 3)}


def test_another_split_moves_captures_and_nothing_else(corpus: Corpus) -> None:
    corpus.build(split=SplitSpec(val_fraction=0.4), refit="never")
    found = differs(corpus)
    assert found.parameters == {"split.val_fraction": (0.1, 0.4)}
    assert (found.added, found.changed, found.relabelled) == ([], [], {})
    before, after = open_set(corpus.store.url, "base"), open_set(corpus.store.url)
    ids = before.fact("capture_id")
    moved = set(ids[before.labels.split != after.labels.split].tolist())
    assert moved
    assert {capture for captures in found.moved.values() for capture in captures} == moved
    for name, captures in found.moved.items():
        codes = [("train", "val", "test").index(split) for split in name.split(" → ")]
        chosen = np.isin(ids, captures)
        assert set(before.labels.split[chosen].tolist()) == {codes[0]}
        assert set(after.labels.split[chosen].tolist()) == {codes[1]}


def test_statistics_of_another_basis(corpus: Corpus) -> None:
    corpus.add(*range(20, 24))
    corpus.build(refit="always")
    statistics = differs(corpus).statistics
    assert statistics is not None
    one, other = open_set(corpus.store.url, "base").basis, open_set(corpus.store.url).basis
    assert statistics["train_rows"] == (one.rows, other.rows)
    for name in ("mean", "std"):
        change = getattr(other, name) - getattr(one, name)
        found = statistics[name]
        assert abs(found["largest"]) == pytest.approx(np.abs(change).max(), rel=1e-4)
        place = ("I", "Q", "magnitude").index(found["channel"]), found["band"]
        assert change[place] == pytest.approx(found["largest"], rel=1e-4)


def test_other_bands_have_no_statistics_to_compare(corpus: Corpus) -> None:
    corpus.build(spec=replace(SMALL, n_mels=20))
    found = differs(corpus)
    assert found.parameters == {"spec.n_mels": (24, 20)}
    assert found.statistics is not None
    assert not found.statistics["comparable"]
    assert "mean" not in found.statistics


def test_the_command(corpus: Corpus) -> None:
    corpus.add(20)
    corpus.build(refit="always", split=SplitSpec(seed=7))
    result = command("diff", "base", "latest", "--store", corpus.store.url)
    assert result.exit_code == 0, result.output
    assert "split.seed               42 → 7" in result.stdout
    assert "added                    3: 25, 26, 27" in result.stdout
    assert "differs most by" in result.stdout
    shown = json.loads(command("diff", "base", "latest", "--store", corpus.store.url, "--json").stdout)
    assert shown["added"] == [25, 26, 27]
    with pytest.raises(UsageError, match="no feature set or tag 'other'"):
        difference(corpus.store.url, "base", "other")


def test_a_tag_names_a_set_moves_and_may_not_be_anything(corpus: Corpus) -> None:
    store = corpus.store.url
    first = open_set(store).version
    corpus.add(20)
    second = corpus.build().version
    result = command("tag", first, "good", "--store", store)
    assert (result.exit_code, result.stdout) == (0, f"good is {first}\n")
    assert command("tag", "latest", "good", "--store", store).stdout == f"good is {second}; it was {first}\n"
    assert open_set(store, "good").version == second
    for version, name in (("latest", "../up"), ("latest", "latest"), ("other", "good")):
        refused = command("tag", version, name, "--store", store)
        assert refused.exit_code == 2, name
        assert refused.stderr.startswith("error: ")
    assert open_set(store, "good").version == second
    assert sorted(path.name for path in (corpus.store.directory / "tags").iterdir()) == ["base.json", "good.json"]
