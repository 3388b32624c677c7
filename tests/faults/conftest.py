"""Fault injection. The fixtures `tally` and `fault_rounds` come from tally.py.

A test that takes `fault_seed` runs once per seed: as often as its marker `fault_seeds(n)` says (default 1), times
`--fault-rounds`. The seed is in the test's name, so that what failed can be repeated.
"""

from __future__ import annotations

import pytest

from featurestore.objects import objects
from featurestore.objects.retries import Patience
from featurestore.source import catalog, catalog_connection


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test its seeds."""
    if "fault_seed" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("fault_seeds")
        n_seeds = (marker.args[0] if marker else 1) * metafunc.config.getoption("fault_rounds")
        metafunc.parametrize("fault_seed", range(n_seeds), ids=lambda seed: f"seed{seed}")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines, in this process, that a test has time for; a stall is longer than each of them."""
    monkeypatch.setattr(objects, "PATIENCE", Patience(connect_s=1, silence_s=2, request_s=3, total_s=1))
    monkeypatch.setattr(objects, "CHECK_PATIENCE", Patience(connect_s=1, silence_s=1, request_s=1, total_s=1))
    monkeypatch.setattr(catalog, "RETRY_S", 1.0)
    monkeypatch.setattr(catalog, "SILENCE_S", 3.0)
    monkeypatch.setattr(catalog_connection, "CONNECT_TIMEOUT_S", 3)
