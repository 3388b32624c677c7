"""Locating sessions against locating captures, on simulated transmitters anywhere: the table of docs/training.md.

    python bench/sessions.py                       # small: some minutes
    python bench/sessions.py --sessions 4000       # as the documents have it
    python bench/sessions.py --levels 100000       # time and memory of the map alone

Makes the corpus and its features in a directory of its own with an embedded PostgreSQL, trains with the commands' defaults, and
prints errors on the test split beside the baselines.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from featurestore import services
from featurestore.place.grid import Grid
from trainer.network.session.radio_map import Sessions, fit_radio_map

SEED = 7
N_RECEIVERS = 7


def heimdall(*arguments: str) -> str:
    """Run a command, its progress on stderr."""
    return subprocess.run([sys.executable, "-m", "cli", *arguments], check=True, capture_output=True, text=True).stdout


def fit_levels(n_levels: int) -> None:
    """Fit maps of seven receivers to so many levels of a simple world, and print what that took."""
    rng = np.random.default_rng(SEED)
    n = n_levels // N_RECEIVERS
    position = np.stack([rng.uniform(44.3, 45.6, n), rng.uniform(7.0, 9.4, n)], axis=1)
    receivers = np.stack([rng.uniform(44.4, 45.5, N_RECEIVERS), rng.uniform(7.1, 9.3, N_RECEIVERS)], axis=1)
    grid = Grid.around(position, 2.0)
    points, stands = grid.plane.to_plane(position), grid.plane.to_plane(receivers)
    distance = np.maximum(np.sqrt(((points[:, None] - stands[None]) ** 2).sum(-1)), 100.0)
    level = 40 - 32 * np.log10(distance / 1e4) + rng.normal(0, 2, (n, 1)) + rng.normal(0, 4, distance.shape)
    began = time.perf_counter()
    fit_radio_map(Sessions(points, position, level), receivers, grid)
    seconds, cpu = time.perf_counter() - began, time.process_time()
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{n_levels:,} levels of {n:,} sessions: {seconds:.1f} s ({cpu:.1f} s of CPU), {peak_gb:.2f} GB at most")


def train_and_evaluate(directory: Path, n_sessions: int, epochs: int | None) -> None:
    """The table."""
    raw, store = str(directory / "raw"), str(directory / "store")
    with services.running(directory / "services", s3=False) as running:
        world = ("--sites", "uniform", "--sessions", str(n_sessions), "--duration", "0.1", "--dtype", "complex64")
        heimdall("simulate", "--raw", raw, "--catalog", running.catalog, *world)
        heimdall("build-features", "--raw", raw, "--store", store, "--catalog", running.catalog, "--tag", "uni")
    print("| fusion | mean, km | median, km | in 39.3% | in 86.5% | mean by receivers present, km | training, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for fusion in ("attention", "radio-map"):
        checkpoints, began = str(directory / fusion), time.perf_counter()
        limit = () if epochs is None else ("--epochs", str(epochs))
        options = ("--fusion", fusion, "--accelerator", "cpu", "--no-tracking", "--dir", checkpoints, *limit)
        heimdall("train", "--store", store, "--features", "uni", *options)
        seconds = time.perf_counter() - began
        found = json.loads(heimdall("evaluate", f"{checkpoints}/last.ckpt", "--store", store, "--split", "test", "--json"))
        metrics = found["metrics"]
        errors = [f"{metrics[f'error_{name}_m'] / 1000:.1f}" for name in ("mean", "median")]
        coverage = [f"{metrics[f'coverage_{k}_sigma']:.1%}" for k in (1, 2)]
        present = ", ".join(f"{each['error_mean_m'] / 1000:.1f}" for each in metrics["by_receivers_present"].values())
        print("|", " | ".join([fusion, *errors, *coverage, present, f"{seconds:.0f}"]), "|")
    for baseline in ("k_nearest", "predict_the_mean"):
        errors = [f"{found['baselines'][baseline][f'error_{name}_m'] / 1000:.1f}" for name in ("mean", "median")]
        print("|", " | ".join([baseline.replace("_", " "), *errors, "", "", "", ""]), "|")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=120)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--levels", type=int, help="fit the map alone to so many simulated levels")
    parser.add_argument("--smallest", action="store_true", help="just see that it runs (make bench-check)")
    asked = parser.parse_args()
    if asked.smallest:
        fit_levels(2_100)
        asked.sessions, asked.epochs = 60, 1
    elif asked.levels is not None:
        fit_levels(asked.levels)
        return
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-") as name:
        train_and_evaluate(Path(name), asked.sessions, asked.epochs)


if __name__ == "__main__":
    main()
