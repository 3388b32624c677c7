"""Small captures and their catalog rows: made from a seed, in a few milliseconds each."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psycopg

from featurestore.build.build import BuildRequest, build
from featurestore.build.publish import BuildReport
from featurestore.corpus.simulate.breakage import broken_object, broken_record
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.progress import Silent
from featurestore.source.catalog import read_snapshot
from featurestore.source.catalog_writing import CaptureRecord, record
from featurestore.source.snapshot import default_key
from featurestore.tensor.spec import FeatureSpec, SplitSpec

SMALL = FeatureSpec(sample_rate_hz=48_000, n_fft=256, hop_length=64, n_mels=24, n_frames=8)
"""A spec under which a capture of a few thousand samples has room for several windows."""

N_SAMPLES = 3000
RECEIVERS = 3


def session_id(index: int) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_DNS, f"session {index}")


@dataclass
class Corpus:
    """Captures in a raw location and a catalog, and the request that builds from them."""

    raw: Location
    store: Location
    catalog: str
    spec: FeatureSpec = SMALL
    records: dict[tuple[int, int], CaptureRecord] = field(default_factory=dict)

    def objects(self) -> Objects:
        return open_objects(self.raw.url)

    def key(self, session: int, receiver: int) -> str:
        return default_key(session_id(session).bytes, receiver)

    def samples(self, session: int, receiver: int, version: int = 0) -> np.ndarray[tuple[int], np.dtype[np.complex128]]:
        """Noise of its own level, and a tone."""
        rng = np.random.default_rng((session, receiver, version))
        noise = rng.normal(scale=10 ** rng.uniform(-4, -2), size=(N_SAMPLES, 2)) @ [1, 1j]
        tone = np.exp(2j * np.pi * rng.uniform(0, 0.4) * np.arange(N_SAMPLES))
        return np.asarray(noise + 0.1 * tone, np.complex128)

    def add(self, *sessions: int, approved: bool = True, broken: str = "", dtype: str = "complex128") -> None:
        """Write captures and rows; each capture of a broken session is spoilt in the same way."""
        records = []
        for session in sessions:
            for receiver in range(1, RECEIVERS + 1):
                samples = self.samples(session, receiver).astype(dtype)
                if broken == "non_finite":
                    samples[:: self.spec.span // 2] = np.nan  # in every window, however short
                content = broken_object(samples, broken, receiver)
                if content is not None:
                    self.objects().put(self.key(session, receiver), content)
                position = (45 + session / 100, 7 + session / 50)
                row = CaptureRecord(
                    session_id(session),
                    receiver,
                    *position,
                    self.spec.sample_rate_hz,
                    145.0,
                    float(receiver),
                    approved=approved,
                )
                records.append(broken_record(row, broken, receiver))
                self.records[session, receiver] = records[-1]
        record(self.catalog, records)

    def replace(self, session: int, receiver: int) -> None:
        """Another recording under the same key."""
        content = broken_object(self.samples(session, receiver, 1), "", 0)
        assert content is not None
        self.objects().put(self.key(session, receiver), content)

    def sql(self, statement: str) -> None:
        with psycopg.connect(self.catalog, autocommit=True) as connection:
            connection.execute(statement.encode())

    def request(self, **changes: object) -> BuildRequest:
        request = BuildRequest(self.catalog, self.raw, self.store, self.spec, SplitSpec(), workers=0)
        return replace(request, **changes)  # type: ignore[arg-type]  # any field of the request

    def build(self, **changes: object) -> BuildReport:
        return build(self.request(**changes), Silent())

    def captures(self) -> dict[int, tuple[Path, uuid.UUID, int, tuple[float, float]]]:
        """Every approved capture, as `independent.check` wants it; only where captures are local files."""
        snapshot = read_snapshot(self.catalog)
        return {
            int(snapshot.capture_id[i]): (
                self.raw.directory / snapshot.key(i),
                uuid.UUID(bytes=snapshot.session_id[i].tobytes()),
                int(snapshot.websdr_id[i]),
                (float(snapshot.position[i, 0]), float(snapshot.position[i, 1])),
            )
            for i in range(len(snapshot))
        }


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}
