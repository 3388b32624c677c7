"""Predictions for people and for other programs: a table, CSV, or GeoJSON with ellipses. Needs no torch."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exporter.predict.predictor import Predicted
from featurestore.text_table import text_table

FORMATS = ("table", "csv", "geojson")
SUFFIXES = {".csv": "csv", ".geojson": "geojson", ".json": "geojson", ".txt": "table"}
WGS84_A_M, WGS84_F = 6_378_137.0, 1 / 298.257223563
CORNERS = 48
"""Of an ellipse's polygon."""


@dataclass(frozen=True)
class PredictionTable:
    """Predictions, and what they are of.

    Attributes:
        about: column → n values: names of what was predicted from.
        predicted: n positions and uncertainties.
        origin: where from: `model`, `release`, `feature_set`, …
    """

    about: Mapping[str, Sequence[Any]]
    predicted: Predicted
    origin: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.predicted)

    def records(self) -> Iterator[dict[str, Any]]:
        """One for each prediction: what it is of, `latitude`, `longitude`, `sigma_east_m`, `sigma_north_m`."""
        for index, (position, sigma) in enumerate(
            zip(self.predicted.positions.tolist(), self.predicted.uncertainties.tolist(), strict=True)
        ):
            names = {name: values[index] for name, values in self.about.items()}
            yield {
                **names,
                "latitude": round(position[0], 7),  # 1 cm
                "longitude": round(position[1], 7),
                "sigma_east_m": round(sigma[0], 2),
                "sigma_north_m": round(sigma[1], 2),
            }

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {**self.origin, "predictions": list(self.records())}

    def write(self, form: str, *, ellipses: bool = False) -> str:
        """As text in one of `FORMATS`.

        Args:
            form: which.
            ellipses: in GeoJSON, add the 1 σ ellipse of each prediction, which holds the transmitter with 39% when σ is right.
        """
        if form == "csv":
            return self._csv()
        if form == "geojson":
            return json.dumps(self._geojson(ellipses), allow_nan=False) + "\n"
        return self._text()

    def _csv(self) -> str:
        records = list(self.records())
        text = io.StringIO()
        writer = csv.DictWriter(
            text, [*self.about, "latitude", "longitude", "sigma_east_m", "sigma_north_m"], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def _text(self) -> str:
        rows = [[*self.about, "latitude", "longitude", "σ east, km", "σ north, km"]]
        for record in self.records():
            names = [str(record[name]) for name in self.about]
            degrees = [f"{record['latitude']:.4f}", f"{record['longitude']:.4f}"]
            rows.append([*names, *degrees, f"{record['sigma_east_m'] / 1000:.2f}", f"{record['sigma_north_m'] / 1000:.2f}"])
        return "\n".join(text_table(rows, right=range(len(rows[0])))) + "\n"

    def _geojson(self, ellipses: bool) -> dict[str, Any]:
        """RFC 7946: longitude first; rings against the clock, closed."""
        features = []
        for record in self.records():
            latitude, longitude = record.pop("latitude"), record.pop("longitude")
            features.append(feature("Point", [longitude, latitude], record))
            if ellipses:
                ring = ellipse(latitude, longitude, record["sigma_east_m"], record["sigma_north_m"])
                features.append(feature("Polygon", [ring], {**record, "ellipse": "1 sigma"}))
        return {"type": "FeatureCollection", "features": features, "origin": dict(self.origin)}


def feature(kind: str, coordinates: Any, properties: Mapping[str, Any]) -> dict[str, Any]:
    """One of GeoJSON."""
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": dict(properties)}


def ellipse(latitude: float, longitude: float, east_m: float, north_m: float) -> list[list[float]]:
    """The ring of an ellipse with these half axes: [longitude, latitude], …; the last is the first.

    By the WGS84 radii of curvature at its centre: exact for small ones, and within 1% for half axes of 100 km in mid-latitudes.
    """
    phi = math.radians(latitude)
    squared = WGS84_F * (2 - WGS84_F)  # eccentricity
    down = 1 - squared * math.sin(phi) ** 2
    meridian_m = WGS84_A_M * (1 - squared) / down**1.5
    parallel_m = WGS84_A_M / math.sqrt(down) * math.cos(phi)
    angle = 2 * np.pi * np.arange(CORNERS + 1) / CORNERS
    longitudes = longitude + np.degrees(east_m * np.cos(angle) / parallel_m)
    latitudes = np.clip(latitude + np.degrees(north_m * np.sin(angle) / meridian_m), -90, 90)
    ring = np.round(np.stack([longitudes, latitudes], axis=1), 6)
    ring[-1] = ring[0]
    points: list[list[float]] = ring.tolist()
    return points
