"""Located sessions for people and for other programs: a table, CSV, or GeoJSON with contours. Needs no torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.predict.contours import polygons
from exporter.predict.session_predictor import PredictedSession
from exporter.predict.table import feature
from featurestore.place.posterior import LEVELS
from featurestore.text_table import text_table

COLUMNS = (
    "session_id",
    "receivers",
    "latitude",
    "longitude",
    "sigma_east_m",
    "sigma_north_m",
    "correlation",
    "area_39_km2",
    "area_86_km2",
)


@dataclass(frozen=True)
class SessionPredictionTable:
    """Predictions of sessions.

    Attributes:
        sessions: one after the other.
        true: (n, 2) degrees, of rows of a set; `None` where nobody knows.
        origin: where from: `model`, `release`, `feature_set`, …
    """

    sessions: Sequence[PredictedSession]
    true: Sequence[Sequence[float]] | None
    origin: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.sessions)

    def records(self) -> Iterator[dict[str, Any]]:
        """One for each session: `COLUMNS`, and `true_latitude`, `true_longitude` where they are known."""
        for index, session in enumerate(self.sessions):
            (east, cross), (_, north) = session.covariance_m2.tolist()
            values = (
                session.session_id,
                list(session.receivers),
                round(float(session.position[0]), 7),  # 1 cm
                round(float(session.position[1]), 7),
                round(east**0.5, 2),
                round(north**0.5, 2),
                round(cross / (east * north) ** 0.5, 4),
                *(round(session.posterior.area_km2(level), 3) for level in LEVELS),
            )
            record = dict(zip(COLUMNS, values, strict=True))
            if self.true is not None:
                record["true_latitude"], record["true_longitude"] = (round(float(value), 7) for value in self.true[index])
            yield record

    def to_json(self) -> dict[str, Any]:
        """Everything but the densities, as plain values."""
        return {**self.origin, "located": "session", "predictions": list(self.records())}

    def write(self, form: str, *, ellipses: bool = False) -> str:
        """As text in one of `table.FORMATS`; `ellipses` change nothing, since contours are there in any case."""
        del ellipses
        if form == "csv":
            return self._csv()
        if form == "geojson":
            return json.dumps(self._geojson(), allow_nan=False) + "\n"
        return self._text()

    def _csv(self) -> str:
        text = io.StringIO()
        names = COLUMNS if self.true is None else (*COLUMNS, "true_latitude", "true_longitude")
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(record | {"receivers": _names(record)} for record in self.records())
        return text.getvalue()

    def _text(self) -> str:
        rows = [["session", "receivers", "latitude", "longitude", "σ east, km", "σ north, km", "86.5% area, km²"]]
        for record in self.records():
            degrees = [f"{record[name]:.4f}" for name in ("latitude", "longitude")]
            sigmas = [f"{record[name] / 1000:.2f}" for name in ("sigma_east_m", "sigma_north_m")]
            rows.append([record["session_id"], _names(record), *degrees, *sigmas, f"{record['area_86_km2']:,.0f}"])
        return "\n".join(text_table(rows, right=range(len(rows[0])))) + "\n"

    def _geojson(self) -> dict[str, Any]:
        """RFC 7946: for each session a point, then the region of each of `LEVELS`."""
        features = []
        for session, record in zip(self.sessions, self.records(), strict=True):
            latitude, longitude = record.pop("latitude"), record.pop("longitude")
            features.append(feature("Point", [longitude, latitude], record))
            for level in LEVELS:
                rings = [_near(ring, longitude) for ring in session.posterior.contours(level)]
                features.append(feature("MultiPolygon", polygons(rings), {**record, "level": level}))
        return {"type": "FeatureCollection", "features": features, "origin": dict(self.origin)}


def _names(record: Mapping[str, Any]) -> str:
    return " ".join(map(str, record["receivers"]))


def _near(ring: np.ndarray[Any, Any], longitude: float) -> np.ndarray[Any, Any]:
    """(k, 2) latitude, longitude → (k, 2) longitude, latitude, without a jump: a border that crosses ±180° goes beyond."""
    turned = longitude + (ring[:, 1] - longitude + 180) % 360 - 180
    return np.stack([turned, ring[:, 0]], axis=1)
