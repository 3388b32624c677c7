"""The listing finds the object of every capture, and tells when one has changed."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from snapshots_for_tests import snapshot

from featurestore.objects.objects import Location, ObjectInfo, Objects, open_objects
from featurestore.progress import Silent
from featurestore.source.listing import join, read_listing
from featurestore.source.snapshot import MISSING, default_key, format_session

WHEN_US = 1_767_323_045_678_901


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.randoms(use_true_random=False))
def test_exactly_the_listed_captures_are_found(ids: set[int], listed: set[int], random: Random) -> None:
    there = snapshot(sorted(ids))
    keys = dict(zip(sorted(ids), there.keys(), strict=True))
    other = snapshot(sorted(listed))
    infos = [ObjectInfo(key, 100 + i, f'"{key}"', WHEN_US) for i, key in zip(sorted(listed), other.keys(), strict=True)]
    infos += [ObjectInfo("sessions/other.txt", 1, None, WHEN_US), ObjectInfo("truth.csv", 2, None, WHEN_US)]
    random.shuffle(infos)
    found = join(infos, there, Silent(), by_etag=True)
    expected = [100 + capture if capture in listed else MISSING for capture in sorted(ids)]
    assert found.size_bytes.tolist() == expected
    for index, capture in enumerate(sorted(ids)):
        text = json.dumps([keys[capture], 100 + capture, f'"{keys[capture]}"'], separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).digest()[:16] if capture in listed else bytes(16)
        assert found.source_digest[index].tobytes() == digest


def test_several_captures_may_share_an_object() -> None:
    there = replace(snapshot([1, 2, 3]), custom_keys={0: "sessions/shared.npy", 2: "sessions/shared.npy"})
    found = join([ObjectInfo("sessions/shared.npy", 7, "e", WHEN_US)], there, Silent(), by_etag=True)
    assert found.size_bytes.tolist() == [7, MISSING, 7]


def test_local_digests_follow_key_size_and_time_but_not_the_inode(tmp_path: Path) -> None:
    there = snapshot([1])
    path = tmp_path / there.key(0)
    path.parent.mkdir(parents=True)
    raw = Objects(Location.parse(str(tmp_path)))

    def digest(content: bytes, mtime_ns: int) -> bytes:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(mtime_ns, mtime_ns))
        return bytes(read_listing(raw, there, Silent()).source_digest[0])

    first = digest(b"abc", 1_700_000_000_123_456_000)
    assert digest(b"abc", 1_700_000_000_123_456_000) == first
    text = json.dumps([there.key(0), 3, 1_700_000_000_123_456], separators=(",", ":"))
    assert first == hashlib.sha256(text.encode()).digest()[:16]
    assert digest(b"abcd", 1_700_000_000_123_456_000) != first
    assert digest(b"abc", 1_700_000_000_123_457_000) != first


def test_s3_digests_follow_the_etag(bucket: str) -> None:
    there = snapshot([1])
    raw = open_objects(bucket)
    digests = []
    for content in (b"abc", b"abd", b"abc"):
        raw.put(there.key(0), content)
        digests.append(read_listing(raw, there, Silent()).source_digest[0].tobytes())
    assert digests[0] == digests[2] != digests[1]


def test_keys_outside_sessions_are_looked_for_everywhere(tmp_path: Path) -> None:
    (tmp_path / "else where").mkdir()
    (tmp_path / "else where" / "å.npy").write_bytes(b"x")
    there = replace(snapshot([1]), custom_keys={0: "else where/å.npy"})
    assert read_listing(Objects(Location.parse(str(tmp_path))), there, Silent()).size_bytes.tolist() == [1]


def test_keys_are_spelled_as_uuid_spells_them() -> None:
    session = uuid.uuid5(uuid.NAMESPACE_DNS, "x")
    assert format_session(session.bytes) == str(session)
    assert default_key(session.bytes, np.int32(7)) == f"sessions/{session}/websdr_7.npy"
