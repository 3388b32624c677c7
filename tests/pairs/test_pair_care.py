"""Care for pair sets: verify --deep, on a small set that is made once and copied for those who change it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pages import read_page
from pair_worlds import World

from cli import main
from featurestore.care.verify.deep import DeepCheck
from featurestore.objects.objects import Location
from featurestore.pairs.care.deep import PairSampleReport
from featurestore.pairs.care.verify import verify_pairs
from featurestore.store.chunks import ArrayLayout, ChunkBuffer


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [*arguments])
    assert result.exit_code == code, result.output
    return result


def compared(world: World, rows: int = 1000) -> tuple[Any, PairSampleReport]:
    found = verify_pairs(str(world.store), deep=DeepCheck(Location.parse(str(world.raw)), rows, catalog=world.catalog))
    assert isinstance(found.deep, PairSampleReport)
    return found, found.deep


def forge_delay(world: World, by_s: float) -> Path:
    """Another delay in the first row, with checksums that fit."""
    segment = world.open().segments[0]
    path = world.store / "pairs" / segment.path
    layout: ArrayLayout = segment.layout("measured")
    buffer = ChunkBuffer(layout)
    buffer.rows[:] = world.open().read("measured", segment, 0)
    buffer.rows[0, 0] += by_s
    marker = json.loads((path / "segment.json").read_text())
    marker["chunks"]["measured"][0] = buffer.seal(len(layout.rows(0)))
    (path / "measured" / layout.key(0)).write_bytes(buffer.data)
    (path / "segment.json").write_text(json.dumps(marker))
    return path / "measured" / layout.key(0)


def test_pairs_are_what_the_recordings_say(built_once: World) -> None:
    found, deep = compared(built_once)
    served = built_once.open().manifest.counts["rows"]
    assert found.problems == ()
    assert deep == PairSampleReport(served, served, 0, (), 0, 0.0)
    assert compared(built_once, rows=20)[1].rows <= 21  # one session's


def test_a_delay_that_other_code_computed_is_found(world: World) -> None:
    sigma_s = world.open().read_all("measured")[0, 1]
    path = forge_delay(world, 0.04 * sigma_s)
    found, deep = compared(world)
    assert found.problems == ()
    assert deep.largest_sigma == pytest.approx(0.04)
    forge_delay(world, sigma_s)
    assert verify_pairs(str(world.store)).problems == ()
    where = ["--store", str(world.store), "--raw", str(world.raw), "--catalog", world.catalog, "--quiet", "--json"]
    report = json.loads(run("features", "verify", "--pairs", "--deep", "--rows", "1000", *where, code=1).stdout)
    assert (report["deep"]["differ"], report["deep"]["largest_sigma"]) == (1, pytest.approx(1.04))
    [problem] = report["problems"]
    captures = [int(world.open().fact(f"capture_{side}")[0]) for side in "ab"]
    assert (problem["url"], problem["captures"]) == (path.as_uri(), captures)
    assert "its delay differs by 1.04 sigma" in problem["detail"]


def test_sessions_that_have_changed_are_named_and_not_compared(world: World) -> None:
    world.sql("UPDATE measurements SET start_time_ns = start_time_ns + 1000 WHERE id = 3")
    world.key_of(9).unlink()
    found, deep = compared(world)
    assert found.problems == ()
    assert deep.not_found == tuple(range(1, 15))  # all of both sessions
    session = world.open().fact("capture_a") > 14
    assert deep.rows == int((session & np.isfinite(world.open().read_all("measured")[:, 0])).sum())


def test_show_tells_what_the_arrays_hold(built_once: World) -> None:
    shown = json.loads(run("features", "show", "--pairs", "--store", str(built_once.store), "--json", "--quiet").stdout)
    opened = built_once.open()
    served = np.isfinite(opened.read_all("measured")[:, 0])
    measured, websdr = opened.read_all("measured")[served], opened.fact("websdr_a")[served]
    assert shown["counts"]["rows"] == int(served.sum())
    assert shown["quantiles"]["sigma_us"][1] == pytest.approx(1e6 * np.median(measured[:, 1]))
    assert shown["quantiles"]["peak_db"][2] == pytest.approx(10 * np.log10(np.quantile(measured[:, 2], 0.9)), abs=0.3)
    assert shown["quantiles"]["clock_sigma_us"] == pytest.approx([0.1] * 3)
    first = int(websdr.min())
    assert shown["receivers"][str(first)] == int((websdr == first).sum() + (opened.fact("websdr_b")[served] == first).sum())
    assert sum(shown["sessions"].values()) == 5
    lines = run("features", "show", opened.version, "--pairs", "--store", str(built_once.store)).stdout
    assert f"pairs: {served.sum():,} of 5 sessions" in lines


def test_the_report_is_a_page_with_charts_of_the_pairs(built_once: World, tmp_path: Path) -> None:
    path, pictures = tmp_path / "pairs.html", tmp_path / "pictures"
    where = ["--store", str(built_once.store), "--quiet"]
    said = run("features", "report", "--pairs", "--html", str(path), "--out", str(pictures), *where).stdout
    assert said.startswith(f"{path}\n9 pictures")
    page = read_page(path)
    opened = built_once.open()
    strongest = opened.read_all("measured")[np.nanargmax(opened.read_all("measured")[:, 2])]
    assert f"delay {1e6 * strongest[0]:.2f} ± {1e6 * strongest[1]:.2g} µs" in page.text
    assert f"Pair set {opened.version} (latest)" in page.text
    refused = run("features", "report", "--pairs", "--html", str(path), "--receivers", "r.csv", *where, code=2)
    assert "the report of a pair set has none; leave it out" in refused.stderr


def test_a_pair_set_gets_a_tag(world: World) -> None:
    version = world.open().version
    assert run("features", "tag", "latest", "mine", "--pairs", "--store", str(world.store)).stdout == f"mine is {version}\n"
    assert world.open("mine").version == version
