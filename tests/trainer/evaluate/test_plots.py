"""Pictures: they open, have their size, show something, and need neither many rows nor an SNR nor several sites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from featurestore.errors import UsageError
from trainer.evaluate import plots
from trainer.evaluate.metrics import Predictions
from trainer.evaluate.plots import MAX_ON_MAP, Picture, draw
from trainer.network.geometry import Region

REGION = Region(44.9, 8.2, half_extent_m=100e3)
SIZES = {"error_cdf": (1280, 832), "calibration": (1280, 704), "map": (1280, 1331), "error_by_snr": (1280, 832)}


def simulated(count: int, n_sites: int = 0) -> Predictions:
    """Outputs of a network whose σ is right, for transmitters anywhere or at a few sites."""
    generator = np.random.default_rng(0)
    sites = generator.uniform(-0.9, 0.9, (n_sites or count, 2))
    targets = sites[np.arange(count) % len(sites)]
    sigma = generator.uniform(0.02, 0.3, (count, 2))
    outputs = np.concatenate([targets + sigma * generator.normal(size=(count, 2)), sigma], axis=1)
    snr_db = generator.uniform(-12, 35, count)
    snr_db[::10] = np.nan
    return Predictions.from_outputs(REGION, outputs, REGION.decode(targets), np.arange(count) % 7, snr_db)


def picture(predictions: Predictions, *, baselines: bool = True) -> Picture:
    errors = {"5 nearest": predictions.error_m * 2, "predict the mean": predictions.error_m[:1] * 3} if baselines else {}
    return Picture(predictions, REGION, errors, "val split of 0123456789ab")


def check(files: list[Path]) -> None:
    """Each is a PNG of its size, and not empty: at least 1% of it is not white."""
    assert [path.stem for path in files] == list(SIZES)
    for path in files:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.size == SIZES[path.stem]
            grey = np.asarray(image.convert("L"))
        assert (grey < 250).mean() > 0.01, path


def titles(predictions: Predictions, monkeypatch: pytest.MonkeyPatch, directory: Path) -> list[str]:
    """Titles of the pictures, in order."""
    found = []

    def look(figure: Figure, *_: object, **__: object) -> None:
        found.append("\n".join([figure.get_suptitle(), *(axis.get_title() for axis in figure.axes)]))

    monkeypatch.setattr(Figure, "savefig", look)
    draw(picture(predictions), directory)
    return found


def test_many_rows(tmp_path: Path) -> None:
    check(draw(picture(simulated(1000)), tmp_path))


def test_one_row_without_snr_and_baselines(tmp_path: Path) -> None:
    predictions = simulated(1)
    assert np.isnan(predictions.snr_db).all()
    check(draw(picture(predictions, baselines=False), tmp_path))


def test_one_site_and_no_error(tmp_path: Path) -> None:
    predictions, zero = simulated(30, 1), np.zeros(30)
    predictions = replace(predictions, position=predictions.position_true, error_m=zero)
    check(draw(picture(replace(predictions, east_error_m=zero, north_error_m=zero)), tmp_path))


def test_predictions_on_the_other_side_of_the_earth(tmp_path: Path) -> None:
    far = np.full(30, 1e9)
    check(draw(picture(replace(simulated(30), east_error_m=far, error_m=far / 50)), tmp_path))


def test_titles_say_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cdf, calibration, chart, by_snr = titles(simulated(1000), monkeypatch, tmp_path)
    for title in (cdf, calibration, chart, by_snr):
        assert "val split of 0123456789ab" in title
    assert "1,000 rows" in cdf
    assert "10 bins" in calibration
    assert f"{MAX_ON_MAP} of 1,000 rows" in chart
    assert "whiskers: 5% and 95%" in by_snr


def test_the_map_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = simulated(20, 1)
    east_error_m = np.zeros(20)
    east_error_m[3] = 1e6
    chart = titles(replace(predictions, east_error_m=east_error_m), monkeypatch, tmp_path)[2]
    assert "20 rows, 1 predicted beyond the edge" in chart


def test_coverage_is_drawn_where_it_is(tmp_path: Path) -> None:
    """Of 4 rows at 0.5, 1.5, 2.5 and 9 σ, a quarter lie within 1 σ and half within 2 σ."""
    predictions = replace(simulated(4), north_error_m=np.zeros(4))
    predictions = replace(predictions, east_error_m=np.array([0.5, 1.5, 2.5, 9]) * predictions.sigma_east_m)
    figure = Figure()
    plots.draw_coverage(figure.subplots(), [("found", predictions, "tab:blue")])
    found = figure.axes[0].get_legend_handles_labels()[1]
    assert found[2:] == ["1 σ: 25.0%, right is 39.3%", "2 σ: 50.0%, right is 86.5%"]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent/error_cdf\.png cannot be written"):
        draw(picture(simulated(1)), tmp_path / "absent")
