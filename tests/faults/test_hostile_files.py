"""Hostile captures: each ends in a rejection or a valid tensor, soon, and in no more memory than it has bytes."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from corpus_for_tests import Corpus
from faults.hostile import DESCRS, HOSTILE, HUGE, SHAPES, SPEC, described, header, noise, npy, poisoned
from faults.memory import limited_address_space, require_cheap
from faults.tally import Tally
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli import main
from featurestore.objects.objects import Location, open_objects
from featurestore.source.captures import CaptureReader, not_finite
from featurestore.source.listing import RawListing
from featurestore.source.snapshot import Listing
from featurestore.store.feature_set import open_set
from featurestore.tensor.mel import LogMel
from featurestore.tensor.rejection import REASONS, Reason, Rejection

CPU_S = 1.0
"""That one file may take."""

SPARE_BYTES = 2_000_000
"""Beside the object's own size: parsing a header of 4 KB, a tensor, and what is kept from file to file."""

WINDOWS = range(SPEC.windows_per_capture)

CURATED = [
    *(header(described(descr, "(1000,)")) + npy(noise(1000))[128:] for descr in DESCRS),
    *(header(described("'<c16'", shape)) + npy(noise(1000))[128:] for shape in SHAPES),
    b"",
    b"\x93NUMPY",
    b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(20_000),
    header("(" * 60_000),
    header("-" * 3900 + "1"),
    header("1+" * 1900 + "1"),
    header(described("'<c16'", "(1000,)"), (9, 0)) + bytes(16_000),
    npy(np.full(1000, np.nan + 0j)),
    npy(np.full(1000, 1e308 + 1e308j)),
    npy(np.full(1000, 5e-324 + 0j)),
    npy(noise(1000) * 1e307),
]


def judge(found: Sequence[Any], data: bytes) -> None:
    """Every window is rejected for one of the reasons; or it is what numpy reads, and makes a finite tensor or a rejection."""
    compute = LogMel(SPEC)
    for number, window in enumerate(found):
        if isinstance(window, Rejection):
            assert window.reason.label in REASONS
            assert len(window.detail) < 400
            assert window.detail.isprintable()
            continue
        z = np.load(io.BytesIO(data), allow_pickle=False)
        start = SPEC.starts(len(z))[number]
        np.testing.assert_array_equal(window, z[start : start + SPEC.span])
        tensor = np.empty(SPEC.tensor_shape, np.float32)
        compute(window, tensor)
        assert np.isfinite(tensor).all() or not_finite(window).reason is Reason.NON_FINITE


def test_any_file_is_a_rejection_or_a_tensor_soon_and_in_little_memory(tmp_path: Path, tally: Tally, fault_rounds: int) -> None:
    """The size that was listed may be another: objects change, shrink and grow before they are read."""
    objects = open_objects(Location.parse(str(tmp_path)).url)
    reader = CaptureReader(objects, SPEC)  # one for all: what it remembers of one file must not mislead it about the next

    @settings(max_examples=250 * fault_rounds, deadline=None, suppress_health_check=list(HealthCheck))
    @given(HOSTILE, st.sampled_from([0, 0, 0, 0, -1, 1, -100, 100, 10**12]))
    def check(data: bytes, more: int) -> None:
        (tmp_path / "a.npy").write_bytes(data)
        listed = max(0, len(data) + more)
        windows = require_cheap(lambda: reader.read("a.npy", listed, WINDOWS).windows, len(data) + SPARE_BYTES, CPU_S)
        judge(windows, data)
        tally.add("hostile files tried")

    check()


def test_pickles_are_never_executed(tmp_path: Path, tally: Tally) -> None:
    marker = tmp_path / "executed"
    objects = open_objects(Location.parse(str(tmp_path)).url)
    files = poisoned(marker)
    for data in files:
        (tmp_path / "a.npy").write_bytes(data)
        for window in CaptureReader(objects, SPEC).read("a.npy", len(data), WINDOWS).windows:
            assert isinstance(window, Rejection)
            assert window.reason in (Reason.UNREADABLE, Reason.WRONG_DTYPE)
    assert not marker.exists()
    tally.add("hostile files tried", len(files))


def test_hostile_objects_in_s3(bucket: str, tally: Tally) -> None:
    """The same reader, by ranged requests; then each object shrinks, grows or is another one when it is read."""
    objects = open_objects(bucket)
    reader = CaptureReader(objects, SPEC)
    files = CURATED[::2]
    for number, data in enumerate(files):
        key = f"sessions/{number}.npy"
        objects.put(key, data)
        judge(reader.read(key, len(data), WINDOWS).windows, data)
        for now in (data[: len(data) // 2], npy(noise(900, ">c8"))):
            objects.put(key, now)
            judge(reader.read(key, len(data), WINDOWS).windows, now)
    tally.add("hostile files tried", 3 * len(files))


BUILD_BYTES = 100_000_000
"""That a build of small files allocates at most at once; a file that makes it allocate what it promises takes more."""

ADDRESSES_BYTES = 8_000_000_000
"""What libraries in other languages may ask for together."""


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    (tmp_path / "raw").mkdir()
    return Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), catalog, SPEC)


def test_a_build_of_nothing_but_hostile_files_and_a_few_good_ones(corpus: Corpus, tmp_path: Path, tally: Tally) -> None:
    marker = tmp_path / "executed"
    hostile = [*CURATED, *poisoned(marker), header(described("'<c16'", f"({HUGE},)")) + bytes(2000)]
    sessions = -(-len(hostile) // 3)
    corpus.add(*range(sessions + 6))
    keys = [corpus.key(session, receiver) for session in range(sessions) for receiver in (1, 2, 3)][: len(hostile)]
    for key, data in zip(keys, hostile, strict=True):
        corpus.objects().put(key, data)
    options = [
        *("--catalog", corpus.catalog, "--raw", str(corpus.raw), "--store", str(corpus.store), "--workers", "0", "--json"),
        *("--sample-rate-hz", "48000", "--n-fft", "64", "--hop-length", "16", "--n-frames", "4", "--n-mels", "8"),
        *("--windows-per-capture", "2", "--max-rejected-fraction", "1"),
    ]
    with limited_address_space(ADDRESSES_BYTES):
        done = require_cheap(lambda: CliRunner().invoke(main, ["build-features", *options]), BUILD_BYTES, 120, attempts=1)
    assert done.exit_code == 0, done.output
    found = open_set(str(corpus.store), json.loads(done.stdout)["version"])
    counts = found.manifest.counts
    assert counts["captures"] == 3 * (sessions + 6)
    assert set(counts["rejected"]) <= set(REASONS)
    rejected = {entry.iq_key for entry in found.rejected}
    assert rejected <= set(keys)  # none of the good ones
    assert len(rejected) >= 0.7 * len(hostile)  # some of them are odd, and right
    for key, data in zip(keys, hostile, strict=True):
        windows = CaptureReader(corpus.objects(), SPEC).read(key, len(data), WINDOWS).windows
        assert key in rejected or not any(isinstance(window, Rejection) for window in windows)
    assert not marker.exists()
    tally.add("hostile files tried", len(hostile))


def test_objects_that_change_between_listing_and_reading(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    """Halved, emptied, gone, replaced by a directory, a pipe that nobody writes to, or another file of the same length."""
    corpus.add(*range(10))

    def path(session: int) -> Path:
        return corpus.raw.directory / corpus.key(session, 1)

    join = RawListing.join

    def list_then_change(listed: RawListing, *arguments: Any) -> Listing:
        listing = join(listed, *arguments)
        path(0).write_bytes(path(0).read_bytes()[:24_000])
        path(1).write_bytes(b"")
        for session in (2, 3, 4):
            path(session).unlink()
        path(3).mkdir()
        os.mkfifo(path(4))
        path(5).write_bytes(os.urandom(path(5).stat().st_size))
        return listing

    monkeypatch.setattr(RawListing, "join", list_then_change)
    report = corpus.build(max_rejected_fraction=1.0)
    found = {entry.iq_key: entry.reason for entry in open_set(str(corpus.store), report.version).rejected}
    assert found == {
        corpus.key(0, 1): "unreadable",
        corpus.key(1, 1): "unreadable",
        corpus.key(2, 1): "missing_object",
        corpus.key(3, 1): "missing_object",
        corpus.key(4, 1): "missing_object",
        corpus.key(5, 1): "unreadable",
    }
    tally.add("hostile files tried", 6)
