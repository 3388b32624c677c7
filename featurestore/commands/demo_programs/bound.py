"""What nobody can beat on a simulated corpus: python bound.py TRUTH.csv STORE VERSION.

The best estimator knows the radio map exactly and not the transmitter's power: Bayes on a grid of 2 km over the levels that
truth.csv holds, on the test sessions of a feature set. Its answer is the point of least expected distance.
"""

import csv
import sys
from pathlib import Path
from uuid import UUID

import numpy as np

import featurestore
from featurestore.corpus.simulate.radiomap import path_loss_db, shadowing_db
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import RECEIVERS, REGION_LATITUDE, REGION_LONGITUDE, east_north_m
from featurestore.place.density import medians_m, normalize
from featurestore.place.grid import Grid
from featurestore.store.split import Split

FADING_DB = 3.3  # spread of a short capture's level, see docs/simulator.md
CELL_KM = 2.0

feature_set = featurestore.open_set(sys.argv[2], sys.argv[3])
sessions = feature_set.fact("session_id")[feature_set.labels.split == Split.TEST]
wanted = {str(UUID(bytes=session.tobytes())) for session in np.unique(sessions, axis=0)}
heard: dict[str, list[dict[str, str]]] = {}
with Path(sys.argv[1]).open(encoding="utf-8", newline="") as file:
    for row in csv.DictReader(file):
        if row["session_id"] in wanted and not row["broken"]:
            heard.setdefault(row["session_id"], []).append(row)

corners = [(latitude, longitude) for latitude in REGION_LATITUDE for longitude in REGION_LONGITUDE]
grid = Grid.around(np.array(corners), CELL_KM, 0.0)
latitude, longitude = grid.degrees.T
known = {
    each.websdr_id: shadowing_db(SimulationSpec.seed, each, latitude, longitude)
    - path_loss_db(np.hypot(*(east_north_m(latitude, longitude) - east_north_m(each.latitude, each.longitude)).T), 145.7)
    for each in RECEIVERS
}
power = np.array([float(rows[0]["eirp_dbm"]) for rows in heard.values()])

log_densities = []
for rows in heard.values():
    levels = np.array([float(row["level_dbm"]) + float(row["fading_db"]) for row in rows])
    residual = (
        levels - np.stack([known[int(row["websdr_id"])] for row in rows], axis=1) - power.mean() - 2.0
    )  # (cell, receiver)
    # Fading is independent, and all levels share the power: Gaussian with covariance σ²·1 + var(power)·11ᵀ.
    covariance = FADING_DB**2 * np.eye(len(rows)) + power.var()
    log_densities.append(-0.5 * np.einsum("cr,rs,cs->c", residual, np.linalg.inv(covariance), residual))
log_density = normalize(np.stack(log_densities).reshape(-1, *grid.shape), grid.cell_m)
truth = grid.plane.to_plane(np.array([[float(rows[0]["latitude"]), float(rows[0]["longitude"])] for rows in heard.values()]))
errors_km = np.hypot(*(medians_m(log_density, grid) - truth).T) / 1000
print(f"the bound, of who knows the radio map: mean {errors_km.mean():.1f} km, median {np.median(errors_km):.1f} km")
