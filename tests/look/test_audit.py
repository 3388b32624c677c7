"""The audit in `features show`: each fault, put into a real corpus, is found and described; a good corpus has none."""

from __future__ import annotations

import json
import re
import resource
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from corpus_for_tests import N_SAMPLES, SMALL, Corpus, session_id
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cli import main
from featurestore import open_set
from featurestore.build.chunk_tasks import content_digest
from featurestore.corpus.simulate.breakage import npy_bytes
from featurestore.look.audit import audit as thresholds
from featurestore.look.audit.audit import audit
from featurestore.look.audit.equality import EqualRows, near_any
from featurestore.look.audit.findings import Finding, ServedRows
from featurestore.look.overview import findings
from featurestore.objects.objects import Location
from featurestore.source.snapshot import NO_TIMESTAMP
from featurestore.store.split import Split, assign
from featurestore.tensor.mel import LogMel
from featurestore.tensor.moments import MIN_STD
from featurestore.tensor.spec import FeatureSpec, SplitSpec

HALVES = SplitSpec(val_fraction=0.25, test_fraction=0.25)


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    (tmp_path / "raw").mkdir()
    return Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), catalog)


def in_split(part: Split, split: SplitSpec = HALVES) -> list[int]:
    """Sessions among the first 300 that are in a split."""
    ids = np.frombuffer(b"".join(session_id(index).bytes for index in range(300)), np.uint8).reshape(-1, 16)
    found: list[int] = np.flatnonzero(assign(split, ids, np.zeros((300, 2))) == part).tolist()
    return found


def found(corpus: Corpus, **changes: object) -> dict[str, Finding]:
    """What an audit of a fresh build finds, by kind; every message is one line that fits two of a terminal."""
    corpus.build(**{"split": HALVES, **changes})
    every = findings(open_set(corpus.store.url))
    for finding in every:
        assert "\n" not in finding.message
        assert len(finding.message) <= 270, finding.message
    return {finding.kind: finding for finding in every}


def copy(corpus: Corpus, source: tuple[int, int], target: tuple[int, int]) -> None:
    """The recording of one capture under the key of another, too."""
    objects = corpus.objects()
    objects.put(corpus.key(*target), objects.get(corpus.key(*source)))


def capture_id(corpus: Corpus, session: int, receiver: int) -> int:
    """Its id in the catalog: rows are recorded one after the other."""
    return 1 + list(corpus.records).index((session, receiver))


# --- a good corpus


class Varied(Corpus):
    """Captures of their own level each, as receivers hear them; in `Corpus`, all hear one tone at −20 dBFS: a flat band."""

    def samples(self, session: int, receiver: int, version: int = 0) -> np.ndarray[tuple[int], np.dtype[np.complex128]]:
        level_db = np.random.default_rng((session, receiver, 7)).uniform(-40, 0)
        return np.asarray(super().samples(session, receiver, version) * 10 ** (level_db / 20))


def test_a_good_corpus_has_nothing_to_look_at(corpus: Corpus) -> None:
    corpus = Varied(corpus.raw, corpus.store, corpus.catalog)
    sessions = {part: in_split(part) for part in (Split.TRAIN, Split.VAL, Split.TEST)}
    corpus.add(*sessions[Split.TRAIN][:90], *sessions[Split.VAL][:25], *sessions[Split.TEST][:25], dtype="complex64")
    assert found(corpus) == {}
    text = CliRunner().invoke(main, ["features", "show", "--store", corpus.store.url]).stdout
    assert text.splitlines()[-1] == "warnings: none"


# --- equal content


def test_a_capture_in_two_splits_is_a_leak(corpus: Corpus) -> None:
    train, val = in_split(Split.TRAIN)[:4], in_split(Split.VAL)[:2]
    corpus.add(*train, *val)
    copy(corpus, (train[1], 2), (val[0], 3))
    copy(corpus, (train[1], 2), (val[1], 3))
    leak = found(corpus)["leak"]
    pair = [capture_id(corpus, train[1], 2), capture_id(corpus, val[1], 3)]
    assert (leak.level, leak.figures) == ("warning", {"tensors": 1, "rows": 3, "captures": [pair]})
    assert f"captures {pair[0]} and {pair[1]}" in leak.message
    assert "withdraw one of each pair" in leak.message


@pytest.mark.parametrize(("sessions", "level"), [(4, "warning"), (40, "note")])
def test_copies_within_a_split_are_duplicates(corpus: Corpus, sessions: int, level: str) -> None:
    train = in_split(Split.TRAIN)[:sessions]
    corpus.add(*train)
    copy(corpus, (train[0], 1), (train[2], 1))
    every = found(corpus)
    assert "leak" not in every
    duplicates = every["duplicates"]
    pair = sorted((capture_id(corpus, train[0], 1), capture_id(corpus, train[2], 1)))
    assert (duplicates.level, duplicates.figures["rows"], duplicates.figures["captures"]) == (level, 1, [pair])
    assert duplicates.figures["share"] == 1 / (3 * sessions)


def test_windows_that_are_all_of_a_capture_are_duplicates(corpus: Corpus) -> None:
    """A capture no longer than one window gives it again and again."""
    corpus.add(*in_split(Split.TRAIN)[:3])
    for session, receiver in corpus.records:
        samples = corpus.samples(session, receiver)[: SMALL.span]
        corpus.objects().put(corpus.key(session, receiver), npy_bytes(samples))
    duplicates = found(corpus, spec=replace(SMALL, windows_per_capture=3))["duplicates"]
    assert duplicates.figures["rows"] == 2 * 9
    assert duplicates.figures["captures"][0] == [1, 1]


def test_rows_whose_content_is_not_known_are_counted(corpus: Corpus) -> None:
    """A segment from before content was noted: its marker has no checksums of it."""
    train, val = in_split(Split.TRAIN)[:4], in_split(Split.VAL)[:2]
    corpus.add(*train)
    corpus.build()
    [marker] = corpus.store.directory.glob("specs/*/segments/*/segment.json")
    content = json.loads(marker.read_text())
    del content["chunks"]["content"]
    marker.write_text(json.dumps(content))
    for path in sorted((marker.parent / "content").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    corpus.add(*val)
    copy(corpus, (val[0], 1), (val[1], 1))
    every = found(corpus, refit="never")
    assert every["content_unknown"].figures == {"rows": 12}
    assert "12 of 18 rows" in every["content_unknown"].message
    assert every["duplicates"].figures["rows"] == 1  # among those that are known


def by_brute_force(rows: list[tuple[bytes, bool, int, int]]) -> tuple[list[list[int]], int, list[list[int]]]:
    """Content by content, from all its rows: leaks as pairs of captures, rows in them, and repeats."""
    across, n_across, within = [], 0, []
    for content in {content for content, known, _, _ in rows if known}:
        members = sorted((split, capture) for other, known, split, capture in rows if known and other == content)
        if len({split for split, _ in members}) > 1:
            across.append([members[0][1], members[-1][1]])
            n_across += len(members)
        for split in range(3):
            captures = [capture for at, capture in members if at == split]
            within += [list(pair) for pair in pairwise(captures)]
    return sorted(across), n_across, sorted(within)


@given(
    st.lists(
        st.tuples(
            # Digests that differ in one half only, or in none.
            st.builds(lambda high, low: bytes([high] * 8 + [low] * 8), st.integers(1, 3), st.integers(1, 3)),
            st.booleans(),
            st.integers(0, 2),
            st.integers(1, 6),
        ),
        max_size=30,
    )
)
def test_equal_rows_are_those_that_brute_force_finds(rows: list[tuple[bytes, bool, int, int]]) -> None:
    content = np.frombuffer(b"".join(row[0] for row in rows), np.uint8).reshape(-1, 16)
    known, split, capture = (
        np.array([row[i] for row in rows], dtype) for i, dtype in ((1, bool), (2, np.uint8), (3, np.int64))
    )
    equal = EqualRows.find(content, known, split, capture)
    assert (equal.across.tolist(), equal.rows_across, equal.within.tolist()) == by_brute_force(rows)


@settings(max_examples=30)
@given(hnp.arrays(np.float32, (4, 3, 2, 2), elements=st.sampled_from([-120.0, -80.0, -0.0])))
def test_content_is_equal_just_where_tensors_are(logmel: npt.NDArray[np.float32]) -> None:
    digests = [content_digest(row).tobytes() for row in logmel]
    for one in range(4):
        for other in range(4):
            assert (digests[one] == digests[other]) == np.array_equal(logmel[one], logmel[other])


# --- splits


def test_small_and_empty_splits(corpus: Corpus) -> None:
    corpus.add(*in_split(Split.TRAIN)[:6], *in_split(Split.VAL)[:4])
    every = found(corpus)
    assert every["few_sessions"].figures == {"split": "val", "rows": 12, "sessions": 4, "wanted": 25}
    assert "±50% (±20% wanted)" in every["few_sessions"].message
    assert every["empty_split"].figures == {"split": "test", "rows": 0, "sessions": 0}
    assert every["few_train_rows"].figures == {"rows": 18, "wanted": 256}
    assert "train_smaller" not in every


def test_a_split_that_nobody_asked_for_may_be_empty(corpus: Corpus) -> None:
    corpus.add(*range(8))
    every = found(corpus, split=SplitSpec(fold=(1, 2)))
    assert "empty_split" not in every
    assert "few_sessions" in every


def test_train_smaller_than_the_rest(corpus: Corpus) -> None:
    corpus.add(*in_split(Split.TRAIN)[:3], *in_split(Split.VAL)[:2], *in_split(Split.TEST)[:2])
    assert found(corpus)["train_smaller"].figures == {"train": 9, "val_and_test": 12}


# --- receivers and sessions


def keep_only(corpus: Corpus, condition: str) -> None:
    corpus.sql(f"UPDATE measurements SET approved = ({condition})")


def test_a_receiver_that_dominates(corpus: Corpus) -> None:
    train = in_split(Split.TRAIN)[:12]
    corpus.add(*train)
    others = [str(session_id(session)) for session in train[:2]]
    keep_only(corpus, f"websdr_id = 2 OR session_id IN ('{others[0]}', '{others[1]}')")
    dominant = found(corpus)["dominant_receiver"]
    assert dominant.figures == {"receiver": "2", "split": "train", "rows": 12, "share": 0.75, "ratio": 6.0}
    assert "receiver 2 has 75% of the train rows, 6.0 times the mean of the other 2" in dominant.message


def test_receivers_that_train_never_heard(corpus: Corpus) -> None:
    train, val = in_split(Split.TRAIN)[:4], in_split(Split.VAL)[:2]
    corpus.add(*train, *val)
    inside = ", ".join(f"'{session_id(session)}'" for session in val)
    keep_only(corpus, f"websdr_id = 1 OR session_id IN ({inside})")
    unseen = found(corpus)["unseen_receivers"]
    assert unseen.figures == {"receivers": [2, 3], "rows": 4}


def test_a_session_that_dominates(corpus: Corpus) -> None:
    """One transmission that was recorded over and over: many captures under one session id."""
    train = in_split(Split.TRAIN)[:60]
    corpus.add(*train)
    first = session_id(train[0])
    lent = ", ".join(f"'{session_id(session)}'" for session in train[40:])
    # The captures keep their objects, by their old keys, and join the first session.
    corpus.sql(
        "UPDATE measurements SET iq_key = 'sessions/' || session_id || '/websdr_' || websdr_id || '.npy', "
        f"session_id = '{first}' WHERE session_id IN ({lent})"
    )
    dominant = found(corpus)["dominant_session"]
    assert dominant.figures["session"] == str(first)
    assert (dominant.figures["split"], dominant.figures["rows"]) == ("train", 3 + 20 * 3)
    assert dominant.figures["ratio"] == pytest.approx(63 / 3)


# --- bands


def test_bands_that_hardly_vary_are_named_in_khz(corpus: Corpus) -> None:
    """Above 12 kHz nothing was recorded: those bands stay at the floor."""
    corpus.add(*in_split(Split.TRAIN)[:4])
    for session, receiver in corpus.records:
        # A few bins of one frame length, with noise on them: nothing between, for frames that begin anywhere.
        time = np.arange(N_SAMPLES) / SMALL.sample_rate_hz
        rng = np.random.default_rng((session, receiver))
        level = 10 ** rng.uniform(-3, -1, 60)
        tones = (level[:, None] * np.exp(2j * np.pi * 187.5 * np.arange(60)[:, None] * time)).sum(axis=0)
        corpus.objects().put(corpus.key(session, receiver), npy_bytes(tones))
    flat = found(corpus)["flat_bands"]
    opened = open_set(corpus.store.url)
    std = opened.basis.std
    logmel = np.stack(
        [LogMel(SMALL)(np.load(path)[(N_SAMPLES - SMALL.span) // 2 :][: SMALL.span]) for path in raw_files(corpus)]
    )
    exact = logmel.astype(np.float64).std(axis=(0, 3))
    assert flat.figures["bands"]["I"] == np.flatnonzero(exact[0] <= 0.5).tolist()
    assert flat.figures["bands"]["I"][-1] == SMALL.n_mels - 1
    assert flat.figures["at_floor"] == int((std <= np.float32(0.1)).sum()) > 0
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 24_000 / 700), 26) / 2595) - 1)
    assert f"{edges[flat.figures['bands']['I'][0] + 1] / 1e3:.3g}-{edges[24] / 1e3:.3g} kHz" in flat.message


def raw_files(corpus: Corpus) -> list[Path]:
    return sorted(corpus.raw.directory.rglob("*.npy"))


def test_noise_of_constant_level_is_no_flat_band() -> None:
    """What the threshold rests on: at the defaults, noise alone moves every band of I and Q by more."""
    spec, rng = FeatureSpec(), np.random.default_rng(1)
    compute = LogMel(spec)
    noise = np.stack(
        [compute(rng.normal(size=spec.span) + 1j * rng.normal(size=spec.span)) for _ in range(40)]
    )  # (row, channel, mel, frame)
    least = noise.std(axis=(0, 3))[:2].min()
    assert thresholds.MIN_STD_DB < 0.75 < least < 0.85


def test_cepstral_coefficients_are_flat_only_at_the_floor() -> None:
    spec = replace(SMALL, n_mfcc=4)
    std = np.full((3, 4), 0.3, np.float32)
    assert "flat_bands" not in kinds(audit(rows(30), spec, SplitSpec(), std))
    std[2, 1] = 0.1
    flat = kinds(audit(rows(30), spec, SplitSpec(), std))["flat_bands"]
    assert flat.figures["bands"] == {"I": [], "Q": [], "magnitude": [1]}
    assert "kHz" not in flat.message


def kinds(every: list[Finding]) -> dict[str, Finding]:
    return {finding.kind: finding for finding in every}


# --- positions and labels


def test_sites_that_train_knows_are_noted_unless_split_by_region(corpus: Corpus) -> None:
    train, val, test = (in_split(part)[:4] for part in (Split.TRAIN, Split.VAL, Split.TEST))
    corpus.add(*train, *val, *test)
    inside = ", ".join(f"'{session_id(session)}'" for session in (train[0], val[0], test[1], test[2]))
    corpus.sql(f"UPDATE measurements SET latitude = 49.5, longitude = 7.25 WHERE session_id IN ({inside})")
    # Label errors of 22 m and, of another session, 222 m: a site that is known, and one that is not.
    corpus.sql(f"UPDATE measurements SET latitude = 49.5002 WHERE session_id = '{session_id(val[0])}'")
    corpus.sql(f"UPDATE measurements SET latitude = 49.502, longitude = 7.25 WHERE session_id = '{session_id(val[3])}'")
    known = found(corpus)["known_sites"]
    assert (known.level, known.figures) == ("note", {"sessions": 3, "of": 8, "within_m": 100})
    assert "--split-by region" in known.message
    by_region = SplitSpec(0.25, 0.25, by="region")
    assert "known_sites" not in found(corpus, split=by_region)


@given(hnp.arrays(np.float64, (7, 2), elements=st.floats(-0.003, 0.003)), st.sampled_from([0.0, 60.0, -75.0]))
def test_near_places_are_those_of_the_haversine_formula(step: npt.NDArray[np.float64], latitude: float) -> None:
    place = np.add(step, (latitude, 179.999))  # across the date line, too
    half = np.radians(place[:4, None] - place[None, 4:]) / 2  # (position, known, 2)
    product = np.cos(np.radians(place[:4, None, 0])) * np.cos(np.radians(place[None, 4:, 0]))
    exact_m = 2 * 6_371_000 * np.arcsin(np.sqrt(np.sin(half[..., 0]) ** 2 + product * np.sin(half[..., 1]) ** 2))
    if np.abs(exact_m - 100).min() > 0.01:  # not a matter of rounding
        wrapped = place - np.where(place > 180, 360, 0)
        assert near_any(wrapped[:4], place[4:], 100).tolist() == (exact_m < 100).any(axis=1).tolist()


def test_labels_that_are_missing(corpus: Corpus) -> None:
    train = in_split(Split.TRAIN)[:4]
    corpus.add(*train)
    corpus.sql("UPDATE measurements SET snr_db = NULL, frequency_mhz = NULL WHERE websdr_id = 2")
    every = found(corpus)
    assert (every["unknown_snr"].level, every["unknown_snr"].figures) == ("warning", {"share": pytest.approx(1 / 3)})
    assert every["unknown_frequency_mhz"].level == "note"
    assert "unknown_timestamp" not in every  # of no row
    corpus.sql('UPDATE measurements SET "timestamp" = now() WHERE websdr_id = 1')
    assert found(corpus)["unknown_timestamp"].figures == {"share": pytest.approx(2 / 3)}


# --- the command, and its price


def test_the_command_shows_warnings_first_and_prints_them_as_json(corpus: Corpus) -> None:
    train, val = in_split(Split.TRAIN)[:4], in_split(Split.VAL)[:2]
    corpus.add(*train, *val)
    copy(corpus, (train[0], 1), (val[0], 1))
    every = found(corpus)
    arguments = ["features", "show", "--store", corpus.store.url]
    shown = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)["warnings"]
    assert [entry["kind"] for entry in shown] == [*every] or Counter(e["kind"] for e in shown)["few_sessions"] == 2
    assert shown[0] == {"kind": "leak", "level": "warning", "message": every["leak"].message, **every["leak"].figures}
    levels = [entry["level"] for entry in shown]
    assert levels == sorted(levels, key=["warning", "note"].index)
    text = CliRunner().invoke(main, arguments).stdout
    assert f"  warning (leak): {every['leak'].message}" in text.splitlines()


def rows(n_sessions: int, receivers: int = 3) -> ServedRows:
    """Good rows without a store: sessions of their own place, contents all different."""
    n = n_sessions * receivers
    rng = np.random.default_rng(n)
    sessions = rng.integers(0, 256, (n_sessions, 16), np.uint8)
    split = assign(SplitSpec(), sessions, np.zeros((n_sessions, 2)))
    place = rng.uniform((30, 0), (60, 60), (n_sessions, 2))  # so far apart that none is near another by chance
    return ServedRows(
        capture_id=np.arange(n),
        session_id=np.repeat(sessions, receivers, axis=0),
        websdr_id=np.tile(np.arange(receivers, dtype=np.int32), n_sessions),
        content=rng.integers(0, 256, (n, 16), np.uint8),
        has_content=np.ones(n, bool),
        split=np.repeat(split, receivers),
        position=np.repeat(place, receivers, axis=0),
        snr_db=np.zeros(n, np.float32),
        frequency_mhz=np.zeros(n, np.float32),
        timestamp=np.full(n, NO_TIMESTAMP),
    )


def test_a_million_rows_take_no_python_each() -> None:
    """In processor time of this thread, which other work on the machine does not change much."""
    many = rows(150_000, 7)
    copies = many.content.copy()
    copies[: len(many) // 2] = copies[len(many) // 2 : len(many) // 2 * 2]  # every row has a twin: the worst case
    began = resource.getrusage(resource.RUSAGE_THREAD).ru_utime
    every = kinds(audit(replace(many, content=copies), SMALL, SplitSpec(), np.ones((3, SMALL.n_mels), np.float32)))
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_utime - began < 5  # a Python loop over them takes longer
    assert every["leak"].figures["rows"] + 2 * every["duplicates"].figures["rows"] >= len(many) - 1
    assert set(every) == {"leak", "duplicates"}


# --- docs/audit.md


def test_the_page_lists_every_kind_with_the_thresholds_of_the_code() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/audit.md").read_text()
    listed = re.findall(r"^\| `([a-z_]+)`", page, re.MULTILINE)
    source = (root / "featurestore/look/audit/audit.py").read_text()
    names = set(re.findall(r'(?:warning|note|Finding)\(\s*f?"([a-z_{}]+)"', source))
    expanded = (names - {"dominant_{what}", "unknown_{name}"}) | {
        *("dominant_receiver", "dominant_session", "unknown_frequency_mhz", "unknown_timestamp")
    }
    assert len(names) > 10
    assert sorted(listed) == sorted(expanded)
    stated = dict(re.findall(r"^\| `([A-Z_]+)` \| ([0-9.]+)", page, re.MULTILINE))
    assert stated == {
        "MIN_SESSIONS": f"{thresholds.MIN_SESSIONS}",
        "MIN_TRAIN_ROWS": f"{thresholds.MIN_TRAIN_ROWS}",
        "DOMINANCE_RATIO": f"{thresholds.DOMINANCE_RATIO:g}",
        "DOMINANCE_SHARE": f"{thresholds.DOMINANCE_SHARE * 100:g}",
        "MAX_COPIES": f"{thresholds.MAX_COPIES * 100:g}",
        "MAX_KNOWN_SITES": f"{thresholds.MAX_KNOWN_SITES * 100:g}",
        "KNOWN_SITE_M": f"{thresholds.KNOWN_SITE_M:g}",
        "MAX_UNKNOWN_LABELS": f"{thresholds.MAX_UNKNOWN_LABELS * 100:g}",
        "MIN_STD_DB": f"{thresholds.MIN_STD_DB:g}",
        "MIN_STD": f"{MIN_STD:g}",
    }


def test_one_batch_is_that_of_the_trainer() -> None:
    """Read from its source: to import the trainer would take longer than all of this file."""
    source = (Path(__file__).parents[2] / "trainer/stream/feature_stream.py").read_text()
    assert re.findall(r"^    batch_size: int = (\d+)$", source, re.MULTILINE) == [str(thresholds.MIN_TRAIN_ROWS)]
