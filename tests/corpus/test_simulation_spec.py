"""Which captures are special, and which options are refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import RECEIVERS
from featurestore.errors import UsageError
from featurestore.tensor.rejection import REASONS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sessions", 0),
        ("seed", -1),
        ("sites", "moon"),
        ("dtype", "float32"),
        ("duration_s", 0.0),
        ("duration_s", float("nan")),
        ("sample_rate_hz", 8000.0),
        ("sample_rate_hz", float("inf")),
        ("approved_fraction", 1.1),
        ("broken_fraction", -0.1),
        ("min_snr_db", float("nan")),
    ],
)
def test_impossible_options_are_named(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"{name} is .*; expected "):
        SimulationSpec(**{name: value})


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_approved_fraction_is_kept_evenly_and_only_grows(fraction: float) -> None:
    spec, more = SimulationSpec(approved_fraction=fraction), SimulationSpec(approved_fraction=min(1.0, fraction + 0.1))
    approved = [spec.approved(session) for session in range(200)]
    assert sum(approved) == pytest.approx(200 * fraction, abs=2)
    assert sum(approved[:50]) == pytest.approx(50 * fraction, abs=2)
    assert all(more.approved(session) for session, was in enumerate(approved) if was)


@pytest.mark.parametrize("fraction", [0.02, 0.05, 1 / 7, 0.3, 1.0])
def test_broken_captures_are_as_many_as_asked_of_every_reason_and_receiver(fraction: float) -> None:
    spec = SimulationSpec(broken_fraction=fraction)
    n_sessions = 300
    found = [(r, spec.broken(session, r)) for session in range(n_sessions) for r in range(len(RECEIVERS))]
    broken = [(r, fault) for r, fault in found if fault is not None]
    assert len(broken) == pytest.approx(fraction * n_sessions * len(RECEIVERS), abs=1)
    by_reason = Counter(reason for _, (reason, _) in broken)
    assert set(by_reason) == set(REASONS)
    assert max(by_reason.values()) - min(by_reason.values()) <= 1
    assert {r for r, _ in broken} == set(range(len(RECEIVERS)))
    for reason in REASONS:
        assert sorted(count for _, (name, count) in broken if name == reason) == list(range(by_reason[reason]))


def test_nothing_is_broken_unless_asked() -> None:
    spec = SimulationSpec()
    assert not any(spec.broken(session, receiver) for session in range(50) for receiver in range(len(RECEIVERS)))
