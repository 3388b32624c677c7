"""A simulated corpus whose receivers have clocks, and the pair store that is built from it."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from featurestore.corpus.simulate.simulate import Destination, simulate
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.objects.objects import Location
from featurestore.pairs.build import PairBuildRequest, build_pairs
from featurestore.pairs.pair_set import PairSet, open_pair_set
from featurestore.pairs.publish import PairBuildReport
from featurestore.pairs.spec import PairSpec
from featurestore.progress import Silent

WORLD = SimulationSpec(sessions=5, sites="uniform", clock="gps", sample_rate_hz=24_000, duration_s=0.4, dtype="complex64")
SPEC = PairSpec(max_lag_us=600, n_lags=61)


@dataclass
class World:
    """A simulated corpus and where its pairs go."""

    directory: Path
    catalog: str

    @property
    def raw(self) -> Path:
        return self.directory / "raw"

    @property
    def store(self) -> Path:
        return self.directory / "store"

    def build(self, **changes: object) -> PairBuildReport:
        request = PairBuildRequest(
            self.catalog, Location.parse(str(self.raw)), Location.parse(str(self.store)), SPEC, workers=0
        )
        return build_pairs(replace(request, **changes), Silent())  # type: ignore[arg-type]  # any field of the request

    def open(self, version: str = "latest") -> PairSet:
        return open_pair_set(str(self.store), version)

    def sql(self, statement: str) -> None:
        with psycopg.connect(self.catalog, autocommit=True) as connection:
            connection.execute(statement.encode())

    def simulate(self, spec: SimulationSpec = WORLD) -> None:
        simulate(spec, Destination(Location.parse(str(self.raw)), self.catalog), Silent(), workers=0)

    def truth(self) -> dict[tuple[str, int], dict[str, str]]:
        rows = csv.DictReader((self.raw / "truth.csv").read_text().splitlines())
        return {(row["session_id"], int(row["websdr_id"])): row for row in rows}

    def key_of(self, capture: int) -> Path:
        with psycopg.connect(self.catalog) as connection:
            row = connection.execute("SELECT session_id, websdr_id FROM measurements WHERE id = %s", (capture,)).fetchone()
        assert row is not None
        return self.raw / f"sessions/{row[0]}/websdr_{row[1]}.npy"
