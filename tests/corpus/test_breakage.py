"""Broken captures are what they claim to be, as numpy sees them."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from featurestore.corpus.simulate.breakage import broken_object, broken_record, npy_bytes
from featurestore.source.catalog_writing import CaptureRecord
from featurestore.tensor.rejection import REASONS
from featurestore.tensor.spec import FeatureSpec

RNG = np.random.default_rng(4)
SAMPLES = (RNG.standard_normal(192_000) + 1j * RNG.standard_normal(192_000)).astype(np.complex64)
RECORD = CaptureRecord(
    UUID(int=1), 3, 45.0, 8.0, 192_000.0, frequency_mhz=145.7, snr_db=10.0, timestamp=datetime(2025, 3, 3, tzinfo=UTC)
)


def load(reason: str, count: int = 0) -> np.ndarray[Any, np.dtype[Any]]:
    content = broken_object(SAMPLES, reason, count)
    assert content is not None
    return np.asarray(np.load(io.BytesIO(content)))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_whole_files_are_what_numpy_writes(dtype: str) -> None:
    wanted = io.BytesIO()
    np.save(wanted, SAMPLES.astype(dtype))
    assert bytes(npy_bytes(SAMPLES, dtype)) == wanted.getvalue()


def test_missing_objects_have_no_bytes() -> None:
    assert broken_object(SAMPLES, "missing_object", 0) is None


@pytest.mark.parametrize("count", range(4))
def test_unreadable_objects_cannot_be_loaded(count: int) -> None:
    content = broken_object(SAMPLES, "unreadable", count)
    assert content is not None
    with pytest.raises((ValueError, EOFError)):
        np.load(io.BytesIO(content))


def test_one_unreadable_object_is_a_pickle_that_would_load_if_it_were_trusted() -> None:
    content = broken_object(SAMPLES, "unreadable", 3)
    assert content is not None
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(io.BytesIO(content))
    inside = np.load(io.BytesIO(content), allow_pickle=True)
    assert inside.dtype == object


@pytest.mark.parametrize("count", range(2))
def test_wrong_dtypes_are_one_dimensional_and_not_complex(count: int) -> None:
    loaded = load("wrong_dtype", count)
    assert loaded.shape == SAMPLES.shape
    assert loaded.dtype.kind != "c"


@pytest.mark.parametrize("count", range(2))
def test_wrong_shapes_are_complex_and_not_one_dimensional(count: int) -> None:
    loaded = load("wrong_shape", count)
    assert loaded.ndim == 2
    assert loaded.dtype == np.complex64


def test_short_captures_are_shorter_than_a_window() -> None:
    assert load("too_short").shape[0] < FeatureSpec().span


@pytest.mark.parametrize("count", range(4))
def test_every_default_window_of_a_non_finite_capture_holds_bad_samples(count: int) -> None:
    loaded = load("non_finite", count)
    for n_windows in (1, 3, 11):
        spec = FeatureSpec(windows_per_capture=n_windows)
        for start in spec.starts(len(loaded)):
            assert not np.isfinite(loaded[start : start + spec.span]).all()


@pytest.mark.parametrize("count", range(2))
def test_silent_captures_are_constant(count: int) -> None:
    loaded = load("silent", count)
    assert loaded.shape == SAMPLES.shape
    assert np.all(loaded == loaded[0])


@pytest.mark.parametrize("reason", ["sample_rate_mismatch", "bad_position"])
def test_faults_of_the_catalog_leave_the_object_whole(reason: str) -> None:
    assert np.array_equal(load(reason), SAMPLES)


def test_faults_of_the_catalog() -> None:
    assert broken_record(RECORD, "sample_rate_mismatch", 0).sample_rate_hz == 96_000
    for count in range(3):
        assert not abs(broken_record(RECORD, "bad_position", count).latitude) <= 90
    for reason in set(REASONS) - {"sample_rate_mismatch", "bad_position"}:
        assert broken_record(RECORD, reason, 0) == RECORD
