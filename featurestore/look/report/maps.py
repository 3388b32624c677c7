"""Where transmitters are, and receivers: places in degrees, coloured by split, sized by rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore.look.report.labelled_rows import LabelledRows
from featurestore.page.charts import both_sizes
from featurestore.page.page import Html
from featurestore.source.receivers import Receivers
from featurestore.store.split import SPLITS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KM_PER_DEGREE = 111.2
SAME_KM = 1e-3
NEAR = 1 / 40
"""Of what the map spans: marks that are nearer to each other would hide each other."""
MAX_POSITIONS = 5000
MANY = 150
MAX_NUMBERED = 40
"""With more places, the numbers of their sessions would be a heap."""
MARKERS = ("o", "s", "^")
SPLIT_COLOURS = ("blue", "orange", "green")
RECEIVERS = "receivers"
"""Id of their layer."""
SCALE_BARS_KM = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


@dataclass(frozen=True)
class Places:
    """Marks on the map: n of them, each of one split at one place.

    Attributes:
        position: (n, 2) latitude, longitude of the place in degrees.
        split: (n,) as in the set.
        rows: (n,) there.
        sessions: (n,) there.
        place: (n,) number of the place.
        radius_km: positions within so much of each other are one place.
        n_positions: different positions.
        n_places: places.
        n_shared: of these, how many have rows in more than one split.
        unknown: rows without a position.
    """

    position: npt.NDArray[np.float64]
    split: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]
    sessions: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    radius_km: float
    n_positions: int
    n_places: int
    n_shared: int
    unknown: int


def find_places(rows: LabelledRows) -> Places:
    """Rows at nearly the same position together: nearer than marks could be told apart."""
    known = np.isfinite(rows.position).all(axis=1)
    split, session = rows.split[known], rows.session[known]
    plane, middle = to_plane(rows.position[known])
    exact, member = np.unique(np.round(plane / SAME_KM).astype(np.int64), axis=0, return_inverse=True)
    span = float(np.ptp(plane, axis=0).max()) if len(plane) else 0.0
    radius = max(span * NEAR, SAME_KM)
    if len(exact) > MAX_POSITIONS:  # a grid first, finer than what is joined then
        coarse, member = np.unique(np.floor(plane / (radius / 3)).astype(np.int64), axis=0, return_inverse=True)
        near = _join(coarse, 3.0)
    else:
        near = _join(exact, radius / SAME_KM)
    place = near[member.reshape(-1)]
    n_places = int(place.max()) + 1 if len(place) else 0
    mark, index = np.unique(place * len(SPLITS) + split, return_inverse=True)
    index = index.reshape(-1)
    held = np.bincount(mark // len(SPLITS), minlength=n_places)
    heard = np.unique(np.stack([index, session], axis=1), axis=0)[:, 0]
    centres = np.stack([np.bincount(place, plane[:, axis]) / np.bincount(place) for axis in (0, 1)], axis=1)
    return Places(
        position=_from_plane(centres, middle)[mark // len(SPLITS)],
        split=(mark % len(SPLITS)).astype(np.uint8),
        rows=np.bincount(index, minlength=len(mark)),
        sessions=np.bincount(heard, minlength=len(mark)),
        place=mark // len(SPLITS),
        radius_km=radius,
        n_positions=len(exact),
        n_places=n_places,
        n_shared=int((held > 1).sum()),
        unknown=int((~known).sum()),
    )


def to_plane(position: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], tuple[float, float]]:
    """Kilometres east and north of a middle, on a map to scale there; good enough to be looked at."""
    if not len(position):
        return np.empty((0, 2)), (0.0, 0.0)
    latitude, longitude = position.T
    # Around the mean direction of longitudes, so that no seam runs through the middle.
    middle = float(latitude.mean()), float(np.degrees(np.angle(np.exp(1j * np.radians(longitude)).mean())))
    east = (longitude - middle[1] + 180) % 360 - 180
    return np.stack([east * _shrink(middle[0]), latitude - middle[0]], axis=1) * KM_PER_DEGREE, middle


def _from_plane(plane: npt.NDArray[np.float64], middle: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Latitude, and longitude from middle − 180 to middle + 180."""
    degrees = plane / KM_PER_DEGREE
    return np.stack([degrees[:, 1] + middle[0], degrees[:, 0] / _shrink(middle[0]) + middle[1]], axis=1)


def _shrink(latitude: float) -> float:
    return max(math.cos(math.radians(latitude)), 0.01)


def _join(plane: npt.NDArray[np.int64], radius: float) -> npt.NDArray[np.int64]:
    """The place of each point, (n,): each point that is in none yet begins one, and takes what lies within the radius."""
    place = np.full(len(plane), -1, np.int64)
    count = 0
    while len(free := np.flatnonzero(place < 0)):
        near = np.hypot(*(plane[free] - plane[free[0]]).T) <= radius
        place[free[near]] = count
        count += 1
    return place


def draw_map(places: Places, receivers: Receivers | None = None) -> Html:
    """The map, to scale at its middle; marks tell what they hold when they are pointed at."""
    counts = ", ".join(f"{name} {int(places.rows[places.split == code].sum()):,} rows" for code, name in enumerate(SPLITS))
    label = f"Map of {places.n_places:,} places with transmitters: {counts}"
    titles = {name: [_title(places, index) for index in marks.tolist()] for name, marks in _layers(places).items()}
    if receivers is not None:
        label += f"; and of {len(receivers):,} receivers"
        titles[RECEIVERS] = [
            f"receiver {label} at {latitude:.4f}°, {longitude:.4f}°"
            for label, (latitude, longitude) in zip(receivers.labels(), receivers.position.tolist(), strict=True)
        ]
    return both_sizes(lambda figure: _draw(figure, places, receivers), label, (620, 380), titles)


def _layers(places: Places) -> dict[str, npt.NDArray[np.int64]]:
    """Name → marks of one split, from below to above: of each place the smaller ones lie above the larger."""
    order = np.lexsort((-places.rows, places.place))
    first = np.concatenate([[True], np.diff(places.place[order]) != 0])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    layers = {}
    for above in range(len(SPLITS)):
        for code, name in enumerate(SPLITS):
            marks = np.flatnonzero((rank == above) & (places.split == code))
            if len(marks):
                layers[f"{name}-{above}"] = marks
    return layers


def _title(places: Places, index: int) -> str:
    latitude, longitude = places.position[index]
    return (
        f"{SPLITS[places.split[index]]}: {places.sessions[index]:,} sessions, {places.rows[index]:,} rows "
        f"at {latitude:.4f}°, {longitude:.4f}°"
    )


def _draw(figure: Figure, places: Places, receivers: Receivers | None) -> None:
    axis: Any = figure.subplots()
    latitude, longitude = places.position.T
    wide = figure.get_figwidth() > 8
    diameter = 30.0 if places.n_places <= MANY else 14.0  # many lie side by side: as far apart as they are joined
    largest = (diameter if wide else diameter / 1.6) ** 2
    area = np.maximum(largest * places.rows / places.rows.max(), 12.0)
    for name, marks in _layers(places).items():
        code = int(places.split[marks[0]])
        axis.scatter(
            longitude[marks],
            latitude[marks],
            s=area[marks],
            marker=MARKERS[code],
            color=f"tab:{SPLIT_COLOURS[code]}",
            edgecolors="white",
            linewidths=0.8 if places.n_places <= MANY else 0.3,
            gid=name,
        )
    if places.n_places <= MAX_NUMBERED:
        _draw_numbers(axis, places, area)
    if receivers is not None:
        _draw_receivers(axis, receivers, float(longitude.mean()))
    axis.set_aspect(1 / _shrink(float(latitude.mean())), adjustable="datalim")
    axis.margins(0.1)
    axis.set_xlabel("longitude, °")
    axis.set_ylabel("latitude, °")
    axis.xaxis.set_major_formatter(lambda value, _: f"{(value + 180) % 360 - 180:g}")
    axis.locator_params(nbins=8 if wide else 5)
    axis.grid(alpha=0.5, linewidth=0.6)
    figure.draw_without_rendering()  # which widens the limits, so that the map is to scale
    _draw_scale(axis, float(latitude.mean()))


def _draw_receivers(axis: Any, receivers: Receivers, middle: float) -> None:
    """Crosses with the numbers of receivers; those that stand at one position share one."""
    latitude = receivers.position[:, 0]
    longitude = (receivers.position[:, 1] - middle + 180) % 360 - 180 + middle
    axis.scatter(longitude, latitude, s=64, marker="P", color="black", edgecolors="white", linewidths=0.8, gid=RECEIVERS)
    if len(receivers) > MAX_NUMBERED:
        return
    for places in receivers.sharing():
        numbers = ", ".join(str(number) for number in receivers.websdr_id[places])
        at = longitude[places[0]], latitude[places[0]]
        axis.annotate(numbers, at, (-6, -9), textcoords="offset points", ha="right", fontsize=9.5, weight="bold")


def _draw_numbers(axis: Any, places: Places, area: npt.NDArray[np.float64]) -> None:
    """Sessions of each place, above its marks."""
    for number in range(places.n_places):
        own = places.place == number
        latitude, longitude = places.position[own][0]
        sessions = int(places.sessions[own].sum())
        above = 3 + math.sqrt(float(area[own].max())) / 2
        axis.annotate(f"{sessions:,}", (longitude, latitude), (0, above), textcoords="offset points", ha="center", fontsize=9.5)


def _draw_scale(axis: Any, latitude: float) -> None:
    """A bar of a round length, about a quarter of the width."""
    low, high = axis.get_xlim()
    km_per_degree = KM_PER_DEGREE * _shrink(latitude)
    fitting = [km for km in SCALE_BARS_KM if km <= (high - low) * km_per_degree * 0.3]
    if not fitting:
        return
    share = fitting[-1] / km_per_degree / (high - low)
    axis.plot([0.03, 0.03 + share], [0.03, 0.03], color="black", linewidth=2.5, transform=axis.transAxes, solid_capstyle="butt")
    axis.text(0.03 + share / 2, 0.045, f"{fitting[-1]:g} km", ha="center", transform=axis.transAxes)
