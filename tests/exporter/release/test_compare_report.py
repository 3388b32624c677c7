"""The report of a comparison: its numbers, a verdict that is the comparison's, and in a real browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import look
from exports_for_tests import Built, invoke, json_of, published, with_weight
from pages import read_page

from exporter.graph.onnx_file import ExportedGraph
from exporter.release.compare import compare
from exporter.release.paired import CompareRequest
from featurestore.errors import UsageError
from featurestore.store.split import Split

SECTIONS = ["Which one is better", "Side by side", "Is σ right?", "Where they differ"]


@dataclass(frozen=True)
class World:
    """Two releases, what `releases compare --json` said of them, and the report."""

    models: str
    found: dict[str, Any]
    path: Path


@pytest.fixture(scope="module")
def world(graph: ExportedGraph, built: Built, tmp_path_factory: pytest.TempPathFactory) -> World:
    directory = tmp_path_factory.mktemp("compare-report")
    models, path = str(directory / "models"), directory / "reports" / "comparison.html"
    published(models, "1.0.0", graph)
    published(models, "1.1.0", with_weight(graph, "position_head", directory / "model.onnx", value=0.02))
    options = ["--models", models, "--store", built.corpus.store, "--draws", "200"]
    found = json_of("releases", "compare", "1.0.0", "1.1.0", *options, "--html", path)
    return World(models, found, path)


def test_the_page_says_what_the_comparison_says(world: World, built: Built) -> None:
    page, found = read_page(world.path), world.found
    assert page.headings == ["Release 1.1.0 compared with 1.0.0", *SECTIONS]
    assert page.cards["rows"] == str(found["rows"])
    assert page.cards["difference"] == f"{found['difference']['mean_m'] / 1000:+,.3f} km"
    assert found["difference"]["mean_m"] != 0
    sides = page.rows("Measured on the same rows")
    for line, name in (("mean error, km", "error_mean_m"), ("90% within, km", "error_p90_m")):
        assert sides[line] == [f"{found[side]['metrics'][name] / 1000:.2f}" for side in "ab"]
    assert found["verdict"] == "unknown"
    assert f"Cannot tell: {found['difference']['sessions']} sessions are too few" in page.text


def test_the_better_number_is_bold(world: World) -> None:
    written = world.path.read_text()
    cells = dict(zip("ab", (f"{world.found[side]['metrics']['error_mean_m'] / 1000:.2f}" for side in "ab"), strict=True))
    better, worse = sorted(cells, key=lambda side: world.found[side]["metrics"]["error_mean_m"])
    assert f"<strong>{cells[better]}</strong>" in written
    assert f"<strong>{cells[worse]}</strong>" not in written


def test_the_rows_that_differ_most_are_listed(world: World, built: Built) -> None:
    compared = compare(CompareRequest(world.models, "1.0.0", "1.1.0", str(built.corpus.store), draws=100))
    assert compared.paired is not None
    paired = compared.paired
    test = np.flatnonzero(built.feature_set.labels.split == Split.TEST)
    assert paired.row.tolist() == test.tolist()
    difference = paired.b.error_m - paired.a.error_m
    assert difference.mean() == pytest.approx(world.found["difference"]["mean_m"])
    page = read_page(world.path)
    caption = next(caption for caption in page.tables if caption.endswith("in which they differ most"))
    rows = page.tables[caption][1:]
    largest = np.sort(np.abs(difference))[::-1][: len(rows)] / 1000
    assert [abs(float(row[-1])) for row in rows] == pytest.approx(largest, abs=0.006)
    captures = dict(zip(paired.capture_id.tolist(), difference.tolist(), strict=True))
    assert all(float(row[-1]) == pytest.approx(captures[int(row[0])] / 1000, abs=0.006) for row in rows)


def test_in_a_browser(world: World, tmp_path: Path) -> None:
    for view in look(world.path, tmp_path):
        assert view.found["headings"][1:] == SECTIONS
        labels = [chart["label"] for chart in view.found["charts"]]
        for beginning in ("Mean difference", "Distribution of errors", "Share of transmitters", "Map of ", "Error by receiver"):
            assert sum(label.startswith(beginning) for label in labels) == 1, beginning


def test_a_release_compared_with_itself(world: World, built: Built, tmp_path: Path) -> None:
    path = tmp_path / "same.html"
    options = ["--models", world.models, "--store", built.corpus.store, "--draws", "100", "--html", path]
    done = invoke("releases", "compare", "1.0.0", "1.0.0", *options)
    assert done.exit_code == 0, done.output
    assert {"1.0.0 (A)", "1.0.0 (B)"} <= {name.rpartition(":")[0] for name in read_page(path).text.splitlines()}


def test_a_directory_is_refused_before_anything_runs(world: World, built: Built, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory; give the name of a file in it"):
        compare(CompareRequest(world.models, "1.0.0", "1.1.0", str(built.corpus.store), html=tmp_path))
