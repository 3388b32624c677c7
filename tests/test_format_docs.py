"""docs/format.md and docs/features.md say what the code does: tables, Python blocks, and names recomputed by their words."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import uuid
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
import zarr
from corpus_for_tests import SMALL, Corpus
from psycopg.rows import dict_row

from featurestore import open_set
from featurestore.errors import DataQualityError
from featurestore.objects.objects import Location
from featurestore.source.catalog_writing import record_receivers
from featurestore.source.receivers import Receivers
from featurestore.store.split import Split
from featurestore.tensor.mel import mel_filters
from featurestore.tensor.rejection import REASONS, Reason
from featurestore.tensor.spec import FeatureSpec, SplitSpec

DOCS = Path(__file__).parents[1] / "docs"
FORMAT = (DOCS / "format.md").read_text()
FEATURES = (DOCS / "features.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", FORMAT, re.MULTILINE | re.DOTALL)
PLACEHOLDER = 'STORE = "features"\n'
FACTS = ("capture_id", "window", "session_id", "websdr_id", "source_digest")
NO_TIME = -(2**63)


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    (tmp_path / "raw").mkdir()
    raw, store = Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store"))
    return Corpus(raw, store, catalog)


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of every row of the table whose header begins with `heading`."""
    after = page.split(f"\n| {heading} |")[1]
    body = after[: after.index("\n\n")].splitlines()[2:]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in body]


def read(path: Path) -> npt.NDArray[Any]:
    return np.asarray(zarr.open_array(path, mode="r"))


def parameters(page: str, heading: str) -> dict[str, Any]:
    return {row[0].strip("`"): ast.literal_eval(row[1].strip("`")) for row in table(page, heading)}


# --- Python blocks


@pytest.mark.parametrize("spec", [SMALL, replace(SMALL, windows_per_capture=3)], ids=["one window", "three windows"])
def test_every_python_block_runs(corpus: Corpus, spec: FeatureSpec) -> None:
    corpus.add(*range(12))
    corpus.sql("""UPDATE measurements SET "timestamp" = '2026-01-02T03:04:05.678901Z', snr_db = NULL WHERE websdr_id = 2""")
    corpus.build(spec=spec, tag="first")
    record_receivers(corpus.catalog, Receivers.of([(1, 45.03, 7.27, "Aquila", 1280), (3, 45.2, 7.9, None, None)]))
    corpus.add(*range(12, 16))
    corpus.sql("UPDATE measurements SET approved = false WHERE id = 7")
    report = corpus.build(spec=spec)
    assert sum(block.count(PLACEHOLDER) for block in BLOCKS) == 1
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS):
        source = block.replace(PLACEHOLDER, f"STORE = {str(corpus.store.directory)!r}\n")
        exec(compile(source, f"format.md, block {number}", "exec"), names)
    assert names["version"] == report.version
    assert len(names["segments"]) == 2
    assert len(names["train"]) == len(names["position"]) == report.splits["train"]
    assert names["dataset"].sizes["row"] == report.rows
    assert not np.isnan(names["one_batch"]).any()
    rows = np.concatenate([read(segment / "logmel") for segment in names["segments"]])
    opened = open_set(corpus.store.url)
    sessions = opened.sessions(Split.TRAIN)
    wanted = {frozenset(rows.tolist()) for rows in np.split(sessions.rows, sessions.begin[1:-1])}
    assert {frozenset(found.tolist()) for found in names["rows_of_sessions"]} == wanted
    numbers = opened.fact("websdr_id")[names["rows_of_sessions"][0]]
    np.testing.assert_array_equal(names["receivers"], opened.receivers.positions_of(numbers))
    assert np.isnan(names["receivers"]).any()
    assert len(names["heard"]) == len(numbers)
    np.testing.assert_allclose(names["in_dbfs"], rows[names["split"] == 0], atol=0.1)


def test_the_first_block_notices_a_missing_chunk(corpus: Corpus) -> None:
    corpus.add(*range(10))
    corpus.build()
    (chunk,) = corpus.store.directory.glob("specs/*/segments/*/features-*/c/0/0/0/0")
    chunk.unlink()
    source = BLOCKS[0].replace(PLACEHOLDER, f"STORE = {str(corpus.store.directory)!r}\n")
    with pytest.raises(AssertionError, match="a chunk is missing"):
        exec(source, {})


# --- tables


def test_the_table_of_split_parameters_is_complete_and_right() -> None:
    assert parameters(FORMAT, "parameter") == {field.name: field.default for field in fields(SplitSpec)}


def test_the_table_of_reasons_is_complete_and_right() -> None:
    stated = {int(row[0]): row[1].strip("`") for row in table(FORMAT, "number")}
    assert stated == {int(reason): reason.label for reason in Reason}


def test_the_table_of_spans_is_right() -> None:
    for hop, samples, span in table(FEATURES, "hop"):
        spec = FeatureSpec(hop_length=int(hop))
        assert spec.span == int(samples)
        assert span == f"{1000 * spec.span / spec.sample_rate_hz:.1f} ms"


def test_the_numbers_of_bands_are_right() -> None:
    filters = mel_filters(FeatureSpec())
    lone = np.flatnonzero((filters > 0).sum(axis=1) == 1)
    bins = {int(filters[band].argmax()) for band in lone}
    text = " ".join(FEATURES.split())
    assert f"{len(lone)} bands hold one bin only, and these are {len(bins)} different bins" in text
    assert f"of {len(filters)} rows {len(filters) - len(lone) + len(bins)} differ" in text
    assert filters[:, -1].max() == 0
    assert filters[1:, 0].max() == 0


@dataclass(frozen=True)
class Described:
    """What a table says of an array."""

    dtype: str
    n_axes: int
    dimensions: tuple[str, ...]
    fill: str
    units: str | None


def described(heading: str, basis: str, band: str) -> dict[str, Described]:
    found = {}
    for name, dtype, shape, dimensions, fill, stated, _ in table(FORMAT, heading):
        axes = tuple(band if axis == "mel" and name != "`logmel`" else axis for axis in dimensions.split(", "))
        units = "1" if band == "coefficient" and heading == "basis array" else stated or None
        array = name.strip("`").replace("{basis}", basis)
        found[array] = Described(dtype, len(shape.split(",")), axes, str(float(fill)), units)
    return found


def actual(directory: Path) -> dict[str, Described]:
    found = {}
    for document in directory.glob("*/zarr.json"):
        content = json.loads(document.read_text())
        assert [codec["name"] for codec in content["codecs"]] == ["bytes", "crc32c"]
        assert content["codecs"][0].get("configuration", {"endian": "little"}) == {"endian": "little"}
        assert content["chunk_grid"]["configuration"]["chunk_shape"][1:] == content["shape"][1:]
        found[document.parent.name] = Described(
            content["data_type"],
            len(content["shape"]),
            tuple(content["dimension_names"]),
            str(float(content["fill_value"])),
            content["attributes"].get("units"),
        )
    return found


@pytest.mark.parametrize("n_mfcc", [0, 7])
def test_the_tables_of_arrays_are_complete_and_right(corpus: Corpus, n_mfcc: int) -> None:
    corpus.add(*range(10))
    corpus.sql("UPDATE measurements SET start_time_ns = 5 WHERE id = 1")
    report = corpus.build(spec=replace(SMALL, n_mfcc=n_mfcc))
    manifest = json.loads((corpus.store.directory / "sets" / report.version / "zarr.json").read_text())["attributes"]
    spec = corpus.store.directory / "specs" / manifest["spec"]
    basis, band = manifest["basis"], "coefficient" if n_mfcc else "mel"
    assert actual(corpus.store.directory / "sets" / report.version) == described("set array", basis, band)
    assert actual(spec / "bases" / basis) == described("basis array", basis, band)
    assert actual(spec / "segments" / manifest["segments"][0]["segment"]) == described("segment array", basis, band)


def test_the_tables_of_keys_are_complete_and_right(corpus: Corpus) -> None:
    corpus.add(*range(10))
    corpus.add(10, broken="silent")
    report = corpus.build(max_rejected_fraction=0.5, tag="tag")
    store = corpus.store.directory
    files = {row[0]: row[1] for row in table(FORMAT, "file")}
    (segment,) = store.glob("specs/*/segments/*")
    for name, path in {
        "`segment.json`": segment / "segment.json",
        "`latest.json`, `tags/{name}.json`": store / "tags" / "tag.json",
    }.items():
        stated = {word for word in re.findall(r"`(\w+)`", files[name]) if word not in ("logmel", "content")}
        assert stated == set(json.loads(path.read_text()))
    (basis,) = store.glob("specs/*/bases/*/zarr.json")
    assert set(re.findall(r"`(\w+)`", files["`zarr.json` of a basis"])) == set(json.loads(basis.read_text())["attributes"])
    rejected = json.loads((store / "sets" / report.version / "rejected.json").read_text())
    assert set(re.findall(r"`(\w+)`", files["`rejected.json`"])) == set(rejected[0])
    manifest = json.loads((store / "sets" / report.version / "zarr.json").read_text())["attributes"]
    stated = {key for row in table(FORMAT, "key") for key in re.findall(r"`(\w+)`", row[0])}
    assert stated == set(manifest)


def test_an_interrupted_segment_has_notes_and_no_marker(corpus: Corpus) -> None:
    corpus.add(*range(10))
    corpus.add(10, broken="silent")
    with pytest.raises(DataQualityError):
        corpus.build(max_rejected_fraction=0)
    (segment,) = corpus.store.directory.glob("specs/*/segments/*")
    note = json.loads((segment / "parts" / "000000.json").read_text())
    stated = next(row[1] for row in table(FORMAT, "file") if row[0] == "`parts/000000.json`")
    assert set(re.findall(r"`(\w+)`", stated)) == set(note)
    assert not (segment / "segment.json").exists()
    assert not (corpus.store.directory / "sets").exists()
    corpus.build(max_rejected_fraction=0.5)
    assert (segment / "segment.json").exists()
    assert not list(segment.glob("parts/*"))


def test_added_features_have_a_marker_of_their_own(corpus: Corpus) -> None:
    corpus.add(*range(10))
    corpus.build()
    corpus.add(*range(10, 14))
    corpus.build(refit="always")
    (marker,) = corpus.store.directory.glob("specs/*/segments/*/features-*.json")
    stated = next(row[1] for row in table(FORMAT, "file") if row[0] == "`features-{basis}.json`")
    content = json.loads(marker.read_text())
    assert set(re.findall(r"`(\w+)`", stated)) == set(content)
    array = zarr.open_array(marker.with_suffix(""), mode="r")
    assert len(content["chunks"]) == array.nchunks
    consolidated = json.loads((marker.parent / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    assert marker.stem not in consolidated


# --- names, recomputed by the words of the page


def name_of(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def canonical(value: dict[str, Any]) -> bytes:
    flat = {key: int(item) if isinstance(item, float) and item.is_integer() else item for key, item in value.items()}
    nested = {key: json.loads(canonical(item)) if isinstance(item, dict) else item for key, item in flat.items()}
    return json.dumps(nested, sort_keys=True, separators=(",", ":")).encode()


def source_digest(corpus: Corpus, key: str) -> bytes:
    path = corpus.raw.directory / key
    if not path.exists():
        return bytes(16)
    status = path.stat()
    content = json.dumps([key, status.st_size, status.st_mtime_ns // 1000], separators=(",", ":"))
    return hashlib.sha256(content.encode()).digest()[:16]


def approved(corpus: Corpus) -> list[dict[str, Any]]:
    with psycopg.connect(corpus.catalog, row_factory=dict_row) as connection:
        return connection.execute("SELECT * FROM measurements WHERE approved ORDER BY id").fetchall()


def nanoseconds(row: dict[str, Any]) -> int:
    time = row["timestamp"]
    return NO_TIME if time is None else int(time.timestamp()) * 10**9 + time.microsecond * 1000


def key_of(row: dict[str, Any]) -> str:
    return str(row["iq_key"] or f"sessions/{row['session_id']}/websdr_{row['websdr_id']}.npy")


def version_of(corpus: Corpus, manifest: dict[str, Any]) -> str:
    rows = approved(corpus)

    def numbers(name: str, dtype: str) -> bytes:
        return np.array([np.nan if row[name] is None else row[name] for row in rows], np.float64).astype(dtype).tobytes()

    segments = sorted(ref["segment"] for ref in manifest["segments"])
    return name_of(
        canonical({**{key: manifest[key] for key in ("spec", "basis", "split")}, "segments": segments}),
        np.array([row["id"] for row in rows], "<i8").tobytes(),
        b"".join(source_digest(corpus, key_of(row)) for row in rows),
        b"".join(row["session_id"].bytes for row in rows),
        np.array([row["websdr_id"] for row in rows], "<i4").tobytes(),
        np.array([[row["latitude"], row["longitude"]] for row in rows], "<f8").tobytes(),
        numbers("frequency_mhz", "<f4"),
        numbers("sample_rate_hz", "<f8"),
        numbers("snr_db", "<f4"),
        np.array([nanoseconds(row) for row in rows], "<i8").tobytes(),
        *times(rows, numbers("time_sigma_s", "<f8")),
    )


def times(rows: list[dict[str, Any]], sigmas: bytes) -> list[bytes]:
    starts = [row["start_time_ns"] for row in rows]
    if all(start is None for start in starts):
        return []
    return [np.array([NO_TIME if start is None else start for start in starts], "<i8").tobytes(), sigmas]


@pytest.mark.parametrize(
    ("spec", "split"),
    [
        (SMALL, SplitSpec()),
        (replace(SMALL, windows_per_capture=3, f_max_hz=11_025.5, n_mfcc=5), SplitSpec(fold=(1, 4))),
        (replace(SMALL, floor_db=-90.0), SplitSpec(by="region", region_degrees=0.25, val_fraction=0.25)),
    ],
    ids=["defaults", "fold", "region"],
)
def test_every_name_can_be_recomputed(corpus: Corpus, spec: FeatureSpec, split: SplitSpec) -> None:
    corpus.add(*range(20))
    for index, reason in enumerate(REASONS):
        corpus.add(100 + index, broken=reason)
    corpus.sql("""UPDATE measurements SET "timestamp" = '2026-01-02T03:04:05.678901Z', snr_db = NULL WHERE websdr_id = 2""")
    corpus.build(spec=spec, split=split, max_rejected_fraction=0.5)
    corpus.add(*range(20, 24))
    (corpus.raw.directory / corpus.key(3, 1)).rename(corpus.raw.directory / "Überlingen.npy")
    corpus.sql(f"UPDATE measurements SET iq_key = 'Überlingen.npy' WHERE session_id = '{session(corpus, 3)}' AND websdr_id = 1")
    if split.by == "region":
        corpus.sql("UPDATE measurements SET start_time_ns = 1597301541000000123 + id, time_sigma_s = 1e-7 WHERE websdr_id = 1")
    report = corpus.build(spec=spec, split=split, max_rejected_fraction=0.5)

    manifest = json.loads((corpus.store.directory / "sets" / report.version / "zarr.json").read_text())["attributes"]
    root = corpus.store.directory / "specs" / manifest["spec"]
    text = (root / "spec.json").read_bytes()
    assert manifest["spec"] == root.name == name_of(text)
    assert canonical(json.loads(text)) == text
    moments = [read(root / "bases" / manifest["basis"] / name).astype("<f4").tobytes() for name in ("mean", "std")]
    assert manifest["basis"] == name_of(*moments)
    assert len(manifest["segments"]) == 2
    digests = set()
    for ref in manifest["segments"]:
        columns = {fact: read(root / "segments" / ref["segment"] / fact) for fact in FACTS}
        little = [np.asarray(column, column.dtype.newbyteorder("<")).tobytes() for column in columns.values()]
        assert ref["segment"] == name_of(manifest["spec"].encode(), *little)
        digests |= {row.tobytes() for row in columns["source_digest"]}
    assert {source_digest(corpus, key_of(row)) for row in approved(corpus) if row["id"] <= 60} <= digests
    assert report.version == manifest["version"] == version_of(corpus, manifest)
    check_split(corpus, manifest)


def session(corpus: Corpus, index: int) -> str:
    return corpus.key(index, 1).split("/")[1]


def h(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64


def check_split(corpus: Corpus, manifest: dict[str, Any]) -> None:
    """The split of every row, by the words of the page."""
    rule = manifest["split"]
    labels = corpus.store.directory / "sets" / manifest["version"]
    root = corpus.store.directory / "specs" / manifest["spec"] / "segments"
    paths = [root / ref["segment"] / "session_id" for ref in manifest["segments"]]
    sessions = np.concatenate(list(map(read, paths)))
    position, split = read(labels / "position"), read(labels / "split")
    seen = set()
    for row in np.flatnonzero(split != 255):
        text = str(uuid.UUID(bytes=sessions[row].tobytes()))
        if rule["by"] == "region":
            text = ",".join(str(int(degrees // rule["region_degrees"])) for degrees in position[row])
        u = (h(text) + h(str(rule["seed"]))) % 1
        if rule["fold"] is not None:
            i, k = map(int, rule["fold"].split("/"))
            expected = 1 if i / k <= u < (i + 1) / k else 0
        else:
            test = round(1 - rule["test_fraction"], 12)
            train = round(1 - rule["val_fraction"] - rule["test_fraction"], 12)
            expected = 0 if u < train else 1 if u < test else 2
        assert split[row] == expected
        seen.add(expected)
    assert len(seen) > 1


# --- rejection


def test_reasons_are_given_in_the_order_of_the_page(corpus: Corpus) -> None:
    corpus.add(*range(10))
    everything = "sample_rate_hz = 96000, latitude = 0, longitude = 0, iq_key = 'nowhere.npy'"
    corpus.sql(f"UPDATE measurements SET {everything} WHERE id = 1")
    corpus.sql(f"UPDATE measurements SET {everything.removeprefix('sample_rate_hz = 96000, ')} WHERE id = 2")
    corpus.sql("UPDATE measurements SET iq_key = 'nowhere.npy' WHERE id = 3")
    integers = np.zeros((2, 2), np.int32)
    for capture, array in {4: integers, 5: integers.astype(np.complex64), 6: np.zeros(2, np.complex64)}.items():
        np.save(corpus.raw.directory / f"{capture}.npy", array)
        corpus.sql(f"UPDATE measurements SET iq_key = '{capture}.npy' WHERE id = {capture}")
    report = corpus.build(max_rejected_fraction=0.5)
    path = corpus.store.directory / "sets" / report.version / "rejected.json"
    found = {entry["capture_id"]: entry["reason"] for entry in json.loads(path.read_text())}
    order = ["sample_rate_mismatch", "bad_position", "missing_object", "wrong_dtype", "wrong_shape", "too_short"]
    assert found == dict(enumerate(order, start=1))
    words = FORMAT.split("in this order:")[1].split("\n\n")[1]
    stated = [word for word in re.findall(r"`(\w+)`", words) if word != "unreadable"]
    assert stated == [*order, "silent", "non_finite"]
