"""The split: sessions on a circle, recomputed here from the words of the design."""

from __future__ import annotations

import hashlib
import uuid

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from featurestore.store.split import Split, assign, count_splits, hash_sessions, unique_sessions
from featurestore.tensor.spec import SplitSpec

ANYWHERE = np.array([[45.0, 7.0]])


def sessions(count: int, seed: int = 0) -> list[uuid.UUID]:
    return [uuid.UUID(bytes=np.random.default_rng((seed, index)).bytes(16)) for index in range(count)]


def columns(ids: list[uuid.UUID]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(b"".join(session.bytes for session in ids), np.uint8).reshape(-1, 16)


def place(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64


def expected(ids: list[uuid.UUID], seed: int, val: float, test: float) -> list[int]:
    found = []
    for session in ids:
        u = (place(str(session)) + place(str(seed))) % 1
        found.append(0 if u < 1 - val - test else 1 if u < 1 - test else 2)
    return found


def test_the_default_split_is_that_of_the_design() -> None:
    ids = sessions(2000)
    split = assign(SplitSpec(), columns(ids), np.repeat(ANYWHERE, 2000, axis=0))
    u = np.array([(place(str(session)) + place("42")) % 1 for session in ids])
    np.testing.assert_array_equal(split, np.where(u < 0.8, 0, np.where(u < 0.9, 1, 2)))
    shares = np.array(list(count_splits(split).values())) / 2000
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.03)


@given(st.integers(0, 2**40), st.sampled_from([(0.1, 0.1), (0.25, 0.05), (0.0, 0.3), (0.2, 0.0)]))
def test_every_seed_and_share(seed: int, shares: tuple[float, float]) -> None:
    ids = sessions(50, seed % 1000)
    spec = SplitSpec(val_fraction=shares[0], test_fraction=shares[1], seed=seed)
    assert assign(spec, columns(ids), np.repeat(ANYWHERE, 50, axis=0)).tolist() == expected(ids, seed, *shares)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.integers(0, 60))
def test_a_session_is_in_one_split_and_stays_there_when_others_come(which: list[int], keep: int) -> None:
    ids = [sessions(21)[index] for index in which]
    position = np.repeat(ANYWHERE, len(ids), axis=0)
    split = assign(SplitSpec(), columns(ids), position)
    assert len({(session, code) for session, code in zip(ids, split.tolist(), strict=True)}) == len(set(ids))
    fewer = max(1, min(keep, len(ids)))
    np.testing.assert_array_equal(assign(SplitSpec(), columns(ids[:fewer]), position[:fewer]), split[:fewer])


def test_folds_cover_every_session_once() -> None:
    ids = columns(sessions(500))
    position = np.repeat(ANYWHERE, 500, axis=0)
    folds = np.stack([assign(SplitSpec(fold=(i, 5)), ids, position) for i in range(5)])
    np.testing.assert_array_equal((folds == Split.VAL).sum(axis=0), np.ones(500))
    assert not (folds == Split.TEST).any()


def test_regions_are_never_torn_apart() -> None:
    rng = np.random.default_rng(3)
    ids = columns(sessions(400))
    position = np.stack([rng.uniform(44, 45, 400), rng.uniform(-1, 1, 400)], axis=1)
    split = assign(SplitSpec(by="region", region_degrees=0.25), ids, position)
    cells: dict[tuple[int, int], int] = {}
    for (latitude, longitude), code in zip(position, split.tolist(), strict=True):
        cell = (int(np.floor(latitude / 0.25)), int(np.floor(longitude / 0.25)))
        assert cells.setdefault(cell, code) == code
        u = (place(f"{cell[0]},{cell[1]}") + place("42")) % 1
        assert code == (0 if u < 0.8 else 1 if u < 0.9 else 2)
    assert len(set(cells.values())) > 1


def test_a_session_of_several_captures_is_in_the_region_of_its_first_good_position() -> None:
    ids = columns([sessions(1)[0]] * 3)
    for bad in ([np.nan, np.nan], [0.0, 0.0], [145.0, 7.0]):
        position = np.array([bad, [45.0, 7.0], [10.0, 10.0]])
        for seed in range(5):
            spec = SplitSpec(by="region", seed=seed)
            expected = assign(spec, ids[:1], position[1:2])[0]
            np.testing.assert_array_equal(assign(spec, ids, position), np.full(3, expected))


def test_sessions_are_hashed_by_their_usual_text() -> None:
    ids = sessions(3) * 2
    assert hash_sessions(columns(ids)).tolist() == [int(hashlib.sha256(str(s).encode()).hexdigest()[:16], 16) for s in ids]
    first, inverse = unique_sessions(columns(ids))
    assert sorted(first.tolist()) == [0, 1, 2]
    np.testing.assert_array_equal(columns(ids)[first][inverse], columns(ids))
