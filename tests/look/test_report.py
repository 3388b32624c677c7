"""The report of a feature set: right numbers, honest samples, nothing that a label could inject; and in a real browser."""

from __future__ import annotations

import base64
import io
import re
import sys
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
import zarr
from browser import look
from click.testing import CliRunner
from corpus_for_tests import SMALL, Corpus
from jinja2 import UndefinedError
from matplotlib.image import imread
from pages import read_page
from psycopg import sql

from cli import main
from featurestore.errors import UsageError
from featurestore.look.overview import show
from featurestore.look.report.by_receiver import Timeline
from featurestore.look.report.distributions import Values
from featurestore.look.report.examples import choose_examples
from featurestore.look.report.labelled_rows import LabelledRows
from featurestore.look.report.maps import SPLIT_COLOURS, draw_map, find_places
from featurestore.look.report.set_pictures import sample_chunks
from featurestore.look.report.set_report import ReportRequest, write_set_report
from featurestore.look.report.spectrograms import Scale, draw_tensor, to_decibels
from featurestore.objects.objects import Location
from featurestore.page.charts import to_svg
from featurestore.page.page import Card, Chart, Html, Page, Table
from featurestore.services import Running, postgres
from featurestore.source.catalog_writing import create_table
from featurestore.source.receivers import Receivers
from featurestore.store.bases import Basis
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.split import SPLITS
from featurestore.tensor.spec import FeatureSpec

HOSTILE = "sessions/<img src=x onerror=alert(1)>&\"'$x_{.npy"
START = "TIMESTAMPTZ '2026-03-01 12:00Z'"
SECTIONS = [
    "What it is",
    "Map",
    "Tensors",
    "Values",
    "Mean and standard deviation by band",
    "SNR and frequency",
    "Receivers",
    "Rejected captures",
    "Builds",
]


@dataclass(frozen=True)
class World:
    """A store, the set that is looked at, and its report."""

    corpus: Corpus
    version: str
    path: Path

    @property
    def store(self) -> str:
        return str(self.corpus.store)

    def open(self) -> FeatureSet:
        return open_set(self.store, self.version)


@pytest.fixture(scope="module")
def world(services: Running, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two builds of 20 sessions and 2 more; two captures cannot be used, one of them by a hostile name; times of most known."""
    directory, database = tmp_path_factory.mktemp("report"), f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(services.catalog, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    catalog = services.catalog.removesuffix(postgres.DATABASE) + database
    create_table(catalog)
    (directory / "raw").mkdir()
    corpus = Corpus(Location.parse(str(directory / "raw")), Location.parse(str(directory / "store")), catalog)
    hostile = HOSTILE.replace("'", "''")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
        corpus.add(*range(20))
        corpus.build()
        corpus.add(20, 21)
        corpus.sql(f"UPDATE measurements SET \"timestamp\" = {START} + id * INTERVAL '8 hours' WHERE id <= 60")
        corpus.sql(f"UPDATE measurements SET iq_key = '{hostile}' WHERE id = 61")
        corpus.sql("UPDATE measurements SET latitude = 91 WHERE id = 62")
        corpus.sql("UPDATE measurements SET snr_db = NULL, frequency_mhz = 433.92 WHERE id = 3")
        version = corpus.build(tag="looked-at").version
    path = directory / "reports" / "set.html"
    receivers = directory / "receivers.csv"
    receivers.write_text("name;websdr_id;latitude;longitude\nMonte <b>;1;45.1;7.2\n;2;45.1;7.2\nfar;99;-30;120\n")
    options = ["--store", str(corpus.store), "--html", str(path), "--receivers", str(receivers)]
    done = CliRunner().invoke(main, ["features", "report", "looked-at", *options])
    assert (done.exit_code, done.stdout.strip()) == (0, str(path)), done.output
    return World(corpus, version, path)


def test_the_page_says_what_the_set_says(world: World) -> None:
    shown, page = show(world.store, world.version), read_page(world.path)
    counts = shown["counts"]
    assert page.headings[0].startswith(f"Feature set {world.version} (")
    assert "looked-at" in page.headings[0]
    assert [title for title in page.headings[1:] if title != "Warnings"] == SECTIONS
    assert page.cards["rows"] == str(counts["rows"]) == "64"
    assert {name: page.cards[name] for name in ("train", "val", "test")} == {
        name: str(counts[name]) for name in ("train", "val", "test")
    }
    assert page.cards["rejected"] == "2"
    assert page.rows("Parameters of the tensors")["hop_length"][0] == str(SMALL.hop_length)
    assert page.rows("Captures by reason") == {"missing_object": ["1", "1.52%"], "bad_position": ["1", "1.52%"]}
    by_split = page.rows("By split")
    assert {name: int(by_split[name][2]) for name in by_split} == {name: counts[name] for name in ("train", "val", "test")}
    assert sum(int(sessions) for _, sessions, _ in by_split.values()) == sum(shown["sessions"].values()) == 22
    assert sum(label.endswith("; and of 2 receivers") for label in page.labels) == 2  # the third is nobody's, wide and narrow
    assert "Bold: numbers of receivers; where 3 stand is not known." in page.text
    assert "receiver Monte <b> at 45.1000°, 7.2000°" in page.text
    receivers = page.rows("Receivers")
    assert {name: int(cells[1]) for name, cells in receivers.items()} == shown["receivers"]
    assert receivers["1"][3:] == ["2026-03-01 20:00", "2026-03-20 20:00"]  # captures 1 and 58
    assert "4 captures of unknown time" in page.text  # 66, less 60 with a time, less 2 rejected
    assert page.rows("Over all rows")["SNR, dB"][-1] == "1"
    builds = page.tables["Builds, newest first"][1:]
    assert [row[0] for row in builds] == [shown["version"], shown["parent"]]
    assert [row[4:6] for row in builds] == [["4", "60"], ["60", "0"]]
    mean = page.rows("Over the bands")["I, mean"]
    expected = np.array(shown["statistics"]["mean"][0])
    assert [float(cell) for cell in mean] == pytest.approx([expected.min(), expected.mean(), expected.max()], abs=0.006)


def test_nothing_is_injected(world: World) -> None:
    page, written = read_page(world.path), world.path.read_text()
    examples = next(rows for caption, rows in page.tables.items() if caption.startswith("Examples"))
    assert HOSTILE in [row[3] for row in examples]
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "base", "form"}
    assert "default-src &#39;none&#39;" in written
    assert not re.search(r'(?:src|href)="(?!#|data:image/png;base64,)', written)


def test_pages_escape_what_is_not_html_already() -> None:
    """Labels in attributes, headings and cells; a picture is HTML already, and stays as it is."""
    hostile = '<b onload="x">&'
    figure, table = Chart(hostile, Html("<svg><b></b></svg>"), hostile), Table(hostile, (hostile,), [(hostile,), ()])
    map_of_it = {"chart": figure, "by_split": table, "shared": hostile}
    basis = {"id": hostile, "rows": "1", "charts": [figure], "by_channel": table}
    data = {
        "what": {"tensors": hostile, "spec": table, "split": table, "origin": table},
        "warnings": [{"level": hostile, "kind": hostile, "message": hostile}],
        "map": map_of_it,
        "sample": None,
        "basis": basis,
        "labels": {"charts": [figure], "spread": table},
        "receivers": {"chart": None, "captures": hostile, "table": table},
        "rejected": {"by_reason": None, "captures": hostile},
        "builds": {"ends": hostile, "chart": None, "table": table},
    }
    page = Page("featurestore.look.report/features.html", hostile, (hostile,), (Card(hostile, hostile, hostile),), data)
    document = page.render()
    assert document.count("<svg><b></b></svg>") == 3
    assert "<b onload" not in document
    assert '"x"' not in document
    del data["basis"]
    with pytest.raises(UndefinedError, match="basis"):
        page.render()


def test_charts_escape_what_they_write() -> None:
    chart = to_svg(lambda figure: figure.text(0, 0.5, "</svg><script>alert(1)</script> $x_{$"), '"><script>', 100)
    assert "<script" not in chart
    assert "$x_{$" in chart  # no formula


def test_in_a_browser(world: World, tmp_path: Path) -> None:
    for view in look(world.path, tmp_path):
        assert [title for title in view.found["headings"][1:] if title != "Warnings"] == SECTIONS
        assert HOSTILE in view.found["text"]
        labels = [chart["label"] for chart in view.found["charts"]]
        assert sum(label.startswith("Map of ") for label in labels) == 1  # the one of this width
        assert sum("spectrograms of I, Q and magnitude" in label for label in labels) == 9  # three receivers, three strengths
        assert (SMALL.n_frames, SMALL.n_mels) in map(tuple, view.found["pictures"])


def test_of_a_large_set_only_a_sample_is_read(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    original = FeatureSet.read_features

    def spy(self: FeatureSet, segment: Any, chunk: int, crc: int | None = None) -> npt.NDArray[np.float16]:
        read.append((segment.segment, chunk))
        return original(self, segment, chunk, crc)

    monkeypatch.setattr(FeatureSet, "read_features", spy)
    monkeypatch.setattr("featurestore.look.report.set_pictures.SAMPLE_CHUNKS", 2)
    path = tmp_path / "set.html"
    write_set_report(ReportRequest(world.store, world.version, path))
    assert len(set(read)) == 2
    said = re.search(r"Of (\d+) of 64 rows, in whole chunks drawn with seed 0", read_page(path).text)
    assert said is not None
    opened = world.open()
    assert int(said[1]) == Values.count(opened, sample_chunks(opened, 2)).rows <= 16


def test_values_and_levels_are_those_of_the_store(world: World) -> None:
    """Against plain zarr and numpy: normalized values, and dB out of them."""
    opened = world.open()
    paths = [world.corpus.store.directory / segment.path for segment in opened.segments]
    normalized, logmel = (
        np.concatenate([np.asarray(zarr.open_array(path / name, mode="r")) for path in paths])
        for name in (f"features-{opened.manifest.basis}", "logmel")
    )
    served = np.flatnonzero(opened.labels.split < 3)
    values = Values.count(opened, sample_chunks(opened, 1000))
    wide = normalized[served].astype(np.float64)
    assert values.rows == len(served)
    assert values.mean == pytest.approx(wide.mean(axis=(0, 2, 3)))
    assert values.std == pytest.approx(wide.std(axis=(0, 2, 3)))
    assert values.largest == pytest.approx(np.abs(wide).max(axis=(0, 2, 3)))
    assert values.normalized.sum(axis=1).tolist() == [wide[:, 0].size] * 3
    some = served[[0, 5, len(served) - 1]]
    tensors = opened.read_rows(some)
    assert np.array_equal(tensors, normalized[some])
    assert to_decibels(opened.basis, tensors) == pytest.approx(logmel[some], abs=0.05)


def test_cepstra_are_no_levels(world: World, tmp_path: Path) -> None:
    version = world.corpus.build(spec=replace(SMALL, n_mfcc=6)).version
    write_set_report(ReportRequest(world.store, version, tmp_path / "mfcc.html"))
    page = read_page(tmp_path / "mfcc.html")
    assert any(label.startswith("Distribution of cepstral coefficients") for label in page.labels)
    assert "dBFS. " not in page.text


def test_of_captures_of_which_little_is_known(world: World, tmp_path: Path) -> None:
    """Two sessions without SNR, frequency and time, two windows from each capture."""
    world.corpus.sql('UPDATE measurements SET snr_db = NULL, frequency_mhz = NULL, "timestamp" = NULL, approved = id <= 6')
    version = world.corpus.build(spec=replace(SMALL, windows_per_capture=2)).version
    write_set_report(ReportRequest(world.store, version, tmp_path / "little.html"))
    page = read_page(tmp_path / "little.html")
    assert (page.cards["rows"], page.cards["sessions"]) == ("12", "2")
    assert "The times of all 6 captures are unknown" in page.text
    assert {name: cells[:2] for name, cells in page.rows("Receivers").items()} == {str(n): ["2", "4"] for n in (1, 2, 3)}
    assert [cells[-1] for cells in page.rows("Over all rows").values()] == ["12", "12"]
    assert sum(label.count("SNR unknown") for label in page.labels) == 9
    assert not [label for label in page.labels if label.startswith("Rows by SNR")]


def test_a_spectrogram_stands_upright() -> None:
    """One loud band near the top and one loud last frame: the picture's first row and last column are the brightest."""
    spec = FeatureSpec(n_mels=16, n_frames=8)
    basis = Basis(np.zeros((3, 16), np.float32), np.ones((3, 16), np.float32), 1, "")
    tensor = np.full((3, 16, 8), -3, np.float16)
    tensor[:, 15] = 3
    tensor[:, :, 7] = 3
    svg = draw_tensor(spec, basis, tensor, Scale(-3, 3), "test")
    drawn = re.findall(r'<image href="data:image/png;base64,([^"]+)" width="8" height="16" transform="matrix\(([^)]+)\)"', svg)
    assert len(drawn) == 6
    for data, matrix in drawn[:3]:
        level = imread(io.BytesIO(base64.b64decode(data)))[..., :3].sum(axis=2)
        right, _, _, down, _, _ = map(float, matrix.split())
        assert right > 0
        seen = level if down > 0 else level[::-1]
        assert seen[0].min() > seen[1:, :7].max()
        assert seen[:, 7].min() > seen[1:, :7].max()


def labelled(positions: list[tuple[float, float]], split: list[int], **changes: Any) -> LabelledRows:
    n = len(positions)
    columns = {
        "row": np.arange(n),
        "split": np.array(split, np.uint8),
        "position": np.array(positions, np.float64).reshape(n, 2),
        "snr_db": np.arange(n, dtype=np.float32),
        "frequency_mhz": np.full(n, 145, np.float32),
        "timestamp": np.full(n, np.datetime64("NaT", "ns")),
        "capture_id": np.arange(n),
        "websdr_id": np.ones(n, np.int32),
        "session": np.arange(n),
    }
    return LabelledRows(**{**columns, **changes})


def test_places_are_what_lies_together() -> None:
    near = [(45.0, 7.0), (45.001, 7.001), (46.0, 8.0), (46.0, 8.0), (47.0, 9.0), (np.nan, 9.0)]
    places = find_places(labelled(near, [0, 1, 0, 0, 2, 0], session=np.array([0, 1, 2, 2, 3, 4])))
    assert (places.n_positions, places.n_places, places.n_shared, places.unknown) == (4, 3, 1, 1)
    assert sorted(zip(places.split.tolist(), places.rows.tolist(), places.sessions.tolist(), strict=True)) == [
        (0, 1, 1),
        (0, 2, 1),
        (1, 1, 1),
        (2, 1, 1),
    ]
    assert places.radius_km == pytest.approx(222.4 / 40, rel=0.01)  # two degrees of latitude


def test_marks_tell_what_they_are_when_pointed_at() -> None:
    """Each title is in the mark of its own split and place, whether Matplotlib writes marks of many sizes or of one."""
    positions = [(45.0, 7.0)] * 5 + [(46.0, 8.0)] * 2
    for split in ([0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 1]):
        svg = draw_map(find_places(labelled(positions, split)))
        marks = re.findall(
            r'<(?:path|use) [^>]*style="fill: var\(--(\w+)\)[^>]*><title>(\w+): (\d+) sessions, \d+ rows at (\d+)', svg
        )
        expected = {(45, 0): 3, (45, 1): 2, (46, split[-1]): 2}
        seen = {(int(latitude), SPLITS.index(name)): int(sessions) for _, name, sessions, latitude in marks}
        assert seen == expected
        assert {name: colour for colour, name, _, _ in marks} == {SPLITS[code]: SPLIT_COLOURS[code] for code in set(split)}
        assert len(marks) == 2 * len(expected)  # wide and narrow


def test_receivers_stand_where_they_are_said_to() -> None:
    """Two at one position share a cross; the map reaches as far as they do, across the antimeridian, too."""
    positions = np.array([(1.0, 179.0), (1.0, 179.0), (-1.0, -179.0)])
    receivers = Receivers(np.array([4, 7, 9]), positions, ("", "seven", ""))
    svg = draw_map(find_places(labelled([(0.0, 179.5), (0.0, -179.5)], [0, 1])), receivers)
    titles = re.findall(r"<title>receiver ([^<]*)</title>", svg)
    assert titles == 2 * ["4 at 1.0000°, 179.0000°", "seven at 1.0000°, 179.0000°", "9 at -1.0000°, -179.0000°"]
    assert re.findall(r">(4, 7|9)</text>", svg) == 2 * ["4, 7", "9"]


def test_places_on_both_sides_of_the_antimeridian_are_neighbours() -> None:
    places = find_places(labelled([(-17.0, 179.9), (-17.0, -179.9), (-17.0, 179.95)], [0, 1, 2]))
    assert np.ptp(places.position[:, 1]) == pytest.approx(0.2)
    assert places.radius_km == pytest.approx(0.2 * 111.2 * np.cos(np.radians(17)) / 40, rel=0.01)


def test_many_positions_make_few_marks() -> None:
    rng = np.random.default_rng(1)
    positions = [*map(tuple, rng.uniform((44, 7), (46, 9), (20_000, 2)).tolist())]
    places = find_places(labelled(positions, rng.integers(0, 3, 20_000).tolist()))
    assert places.n_positions > 19_000
    assert places.n_places < 2000
    assert places.rows.sum() == places.sessions.sum() == 20_000


@pytest.mark.parametrize(("days", "unit", "bins"), [(1, "hour", 25), (30, "day", 31), (400, "month", 14), (5000, "year", 14)])
def test_time_is_drawn_in_steps_that_fit(days: int, unit: str, bins: int) -> None:
    first = np.datetime64("2020-01-01T00:30", "ns")
    times = np.array([first, first + np.timedelta64(days, "D"), np.datetime64("NaT")], "datetime64[ns]")
    timeline = Timeline.of(labelled([(45, 7)] * 3, [0, 0, 0], timestamp=times, websdr_id=np.array([4, 9, 9], np.int32)))
    assert (timeline.unit, len(timeline.starts), timeline.unknown) == (unit, bins, 1)
    assert timeline.receivers.tolist() == [4, 9]
    assert timeline.counts[:, [0, -1]].tolist() == [[1, 0], [0, 1]]


def test_examples_are_weak_middling_and_strong() -> None:
    snr = np.array([9, np.nan, 1, 5, 30, 20], np.float32)
    rows = labelled([(45, 7)] * 6, [0] * 6, snr_db=snr, websdr_id=np.array([2, 2, 2, 2, 7, 7], np.int32))
    chosen = choose_examples(rows)
    assert {receiver: snr[places].tolist() for receiver, places in chosen.items()} == {2: [1, 5, 9], 7: [20, 30]}


def test_what_cannot_be_written_is_said_first(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"is a directory; give the name of a file in it"):
        write_set_report(ReportRequest(world.store, world.version, tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="its directory cannot be made"):
        write_set_report(ReportRequest(world.store, world.version, tmp_path / "file" / "set.html"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="pictures need matplotlib, which is not installed: pip install matplotlib"):
        write_set_report(ReportRequest(world.store, world.version, tmp_path / "set.html"))
    assert not (tmp_path / "set.html").exists()
