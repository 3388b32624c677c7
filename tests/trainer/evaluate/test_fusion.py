"""Sessions located by levels, by time, and by both: from simulated recordings to what `evaluate` reports.

Seven receivers hear NFM voice from anywhere. A radio map is trained on what levels say; pairs are built for sessions of the
test split only, once with GPS clocks and once with network time.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from copies_for_tests import database
from made_once import made_once
from pair_worlds import World

from cli import main
from featurestore.build.build import BuildRequest, build
from featurestore.corpus.simulate.render import Session
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import RECEIVERS
from featurestore.errors import UsageError
from featurestore.objects.objects import Location
from featurestore.pairs.pair_set import open_pair_set
from featurestore.place.grid import Grid, Plane
from featurestore.place.search import rounds
from featurestore.progress import Silent
from featurestore.services import Running
from featurestore.source.catalog_writing import record
from featurestore.source.snapshot import default_key
from featurestore.store.feature_set import open_set
from featurestore.store.split import Split
from featurestore.tensor.spec import FeatureSpec, SplitSpec
from trainer.evaluate.request import EvaluateRequest
from trainer.evaluate.run import evaluate
from trainer.evaluate.session_evaluation import SessionEvaluation
from trainer.evaluate.session_metrics import SessionPredictions

RECORDED = SimulationSpec(sessions=40, sites="uniform", clock="gps", sample_rate_hz=24_000, duration_s=0.4, dtype="complex64")
SPEC = FeatureSpec(sample_rate_hz=24_000, n_fft=256, hop_length=64, n_mels=24, n_frames=8)
SPLIT = SplitSpec(val_fraction=0.1, test_fraction=0.45)
SMALL = ["--grid-km", "4", "--batch-size", "8", "--epochs", "1", "--accelerator", "cpu", "--no-tracking", "--quiet"]


def run(*arguments: object, code: int = 0) -> str:
    found = CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)
    assert found.exit_code == code, found.output
    return found.stdout if code == 0 else found.output


def record_session(world: World, spec: SimulationSpec, index: int) -> None:
    """What `simulate` does, of one session."""
    session = Session(spec, index)
    for receiver in range(len(RECEIVERS)):
        capture = session.capture(receiver)
        assert capture is not None
        assert capture.npy is not None
        path = world.raw / default_key(session.sent.session_id.bytes, capture.record.websdr_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(capture.npy)
        record(world.catalog, [capture.record])


def make(directory: Path, services: Running) -> Path:
    """A store with features, and with pairs of all test sessions but one: tagged gps, and ntp. A checkpoint beside it."""
    with database(services) as catalog:
        world = World(directory, catalog)
        world.simulate(RECORDED)
        raw, store = Location.parse(str(world.raw)), Location.parse(str(world.store))
        build(BuildRequest(catalog, raw, store, SPEC, SPLIT, workers=0), Silent())
        paired = open_set(store.url).sessions(Split.TEST).names()[1:]
        world.build(query=f"SELECT * FROM measurements WHERE session_id IN ({', '.join(map(repr, paired))})", tag="gps")
    with database(services) as catalog:
        other, spec = World(directory / "ntp", catalog), replace(RECORDED, clock="ntp")
        for index in range(RECORDED.sessions):
            if str(Session(spec, index).sent.session_id) in paired:
                record_session(other, spec, index)
        other.build(store=store, tag="ntp")
    run("train", "--store", store.url, "--dir", directory / "run", *SMALL)
    return directory


@pytest.fixture(scope="module")
def made(services: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "fusion", lambda directory: make(directory, services))


def evaluated(made: Path, **more: Any) -> SessionEvaluation:
    found = evaluate(EvaluateRequest(str(made / "run" / "last.ckpt"), str(made / "store"), split="test", k=0, **more))
    assert isinstance(found, SessionEvaluation)
    return found


def test_with_gps_time_locates_ten_times_better_than_levels(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluate.session_page.MAX_MAPS", 0)  # which are as without pairs, and take seconds
    page, table = tmp_path / "page.html", tmp_path / "sessions.csv"
    words = (made / "run" / "last.ckpt", "--store", made / "store", "--split", "test", "--k", "0", "--json", "--quiet")
    found = json.loads(run("evaluate", *words, "--pairs", "gps", "--html", page, "--predictions", table))
    beside = found["fusion"]
    assert beside["used"] == "all"
    assert beside["pairs"] == open_pair_set(str(made / "store"), "gps").version
    assert beside["sessions"] == found["sessions"] == beside["sessions_with_pairs"] + 1
    assert beside["levels_over"]["all"]["mean"] >= 10
    assert beside["levels_over"]["all"]["median"] >= 10
    levels, both = beside["metrics"]["levels"], beside["metrics"]["all"]
    assert both["nll"] < levels["nll"] - 4
    assert both["area_86_median_km2"] < levels["area_86_median_km2"] / 100
    # Its grid has cells of 4 km: a product on that alone would end at a kilometre.
    assert both["error_median_m"] < 1000
    assert f"{beside['sessions_with_pairs']} of {beside['sessions']} sessions have pairs" in " ".join(found["notes"])
    assert "Located by levels, by time, and by all" in page.read_text()
    assert len(table.read_text().splitlines()) == found["sessions"] + 1
    by_count = [found["metrics"]["by_receivers_present"][str(count)]["error_median_m"] for count in (1, 2, 4, 7)]
    assert by_count == sorted(by_count, reverse=True)


def test_with_network_time_both_together_are_no_worse_than_levels(made: Path) -> None:
    beside = evaluated(made, fusion="all").beside  # pairs: the latest, which is that of network time
    assert beside is not None
    assert beside.version == open_pair_set(str(made / "store"), "ntp").version
    assert beside.n_timed >= 8
    levels, both = beside.metrics["levels"], beside.metrics["all"]
    for name in ("mean", "median"):
        assert both[f"error_{name}_m"] <= 1.03 * levels[f"error_{name}_m"]
    assert both["nll"] <= levels["nll"] + 0.1


def test_levels_stay_what_they_are_when_pairs_are_beside_them(made: Path) -> None:
    alone, beside = evaluated(made), evaluated(made, pairs="gps", fusion="levels")
    assert alone.beside is None
    assert alone.to_json()["fusion"] is None
    assert beside.metrics == alone.metrics
    said = list(beside.lines())
    assert any("levels ÷ this" in line for line in said)
    assert any("sessions have pairs with known clocks" in line for line in said)


def test_what_cannot_be(made: Path) -> None:
    said = run("evaluate", made / "run" / "last.ckpt", "--store", made / "store", "--pairs", "nowhere", code=2)
    assert "nowhere" in said
    with pytest.raises(UsageError, match="levels, time, all"):
        EvaluateRequest("a.ckpt", "store", fusion="radio-map")
    with pytest.raises(UsageError, match="path_sigma_us is -1"):
        EvaluateRequest("a.ckpt", "store", path_sigma_us=-1)


def test_a_posterior_on_several_grids_is_summed_up_as_the_density_that_it_is() -> None:
    """A Gaussian of 40 m, of which a grid of 4 km sees one cell: error, area and likelihood are in closed form."""
    plane, sigma = Plane(45.0, 8.0), 40.0
    where = np.array([1234.0, -777.0])

    def log_density(grid: Grid) -> np.ndarray[Any, np.dtype[np.float64]]:
        variance = sigma**2 + grid.cell_m**2 / 4  # widened to the cells, as delays are
        squared = ((grid.points_m - where) ** 2).sum(axis=1)
        return np.asarray(-0.5 * squared / variance - np.log(variance)).reshape(grid.shape)

    whole = Grid.within(plane, np.full(2, -80e3), np.full(2, 80e3), 4000.0)
    found = list(rounds(log_density, whole, 5.0, 48))
    near = plane.from_plane(where + np.array([30.0, 40.0]))
    told = SessionPredictions.of_rounds(found, near)
    np.testing.assert_allclose(told.error_m, 50, atol=2)
    np.testing.assert_allclose(told.area_km2, 2 * np.pi * 2 * sigma**2 / 1e6, rtol=0.05)
    np.testing.assert_allclose(told.nll, np.log(2 * np.pi * sigma**2) + 0.5 * (50 / sigma) ** 2, atol=0.05)
    np.testing.assert_allclose(told.level, 1 - np.exp(-0.5 * (50 / sigma) ** 2), atol=0.03)
    np.testing.assert_allclose(told.expected_error_m, sigma * np.sqrt(np.pi / 2), rtol=0.03)
    # A truth that the finest grid does not hold is as unlikely as a coarser one says, and in no region of 86.5%.
    far = SessionPredictions.of_rounds(found, plane.from_plane(where + 5000.0))
    assert np.isfinite(far.nll).all()
    assert far.nll[0] > told.nll[0] + 3
    assert far.level[0] > 0.99
    beyond = SessionPredictions.of_rounds(found, plane.from_plane(where + 200e3))
    assert np.isfinite(beyond.nll).all()
    np.testing.assert_allclose(beyond.error_m, 200e3 * np.sqrt(2), rtol=0.01)
