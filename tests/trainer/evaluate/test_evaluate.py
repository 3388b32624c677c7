"""Evaluation end to end: a checkpoint that was really trained, on sets that were really built, in files and in S3."""

from __future__ import annotations

import json
import math
import pickle
import re
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no types
import pytest
import torch
from click.testing import CliRunner, Result
from corpus_for_tests import SMALL, Corpus, tree
from psycopg import sql
from pyproj import Geod, Transformer

from cli import main
from featurestore import open_set
from featurestore.errors import DataQualityError, StoreError, UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Silent
from featurestore.services import Running, postgres
from featurestore.source.catalog_writing import create_table
from featurestore.store.split import Split
from featurestore.tensor.spec import SplitSpec
from trainer.evaluate import baselines
from trainer.evaluate.baselines import nearest_baseline
from trainer.evaluate.evaluation import Evaluation
from trainer.evaluate.request import EvaluateRequest
from trainer.evaluate.run import evaluate
from trainer.network.checkpoints import read_checkpoint

Float64 = npt.NDArray[np.float64]

SESSIONS = 24


@dataclass(frozen=True)
class World:
    """One store with four views, and a network trained on the first of them.

    Attributes:
        store: directory.
        checkpoint: file.
        version: what the network was trained on.
        without_test: the same rows, but no test split.
        other_spec: other tensors of the same captures.
        other_basis: the same tensors normalized otherwise.
    """

    store: Path
    checkpoint: Path
    version: str
    without_test: str
    other_spec: str
    other_basis: str

    def request(self, **changes: Any) -> EvaluateRequest:
        return replace(EvaluateRequest(str(self.checkpoint), str(self.store), batch_size=4), **changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, services: Running) -> World:
    directory = tmp_path_factory.mktemp("evaluate")
    database = f"test_{uuid.uuid4().hex[:12]}"
    with pytest.MonkeyPatch.context() as patch, psycopg.connect(services.catalog, autocommit=True) as connection:
        patch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        catalog = services.catalog.removesuffix(postgres.DATABASE) + database
        create_table(catalog)
        (directory / "raw").mkdir()
        corpus = Corpus(Location.parse(str(directory / "raw")), Location.parse(str(directory / "store")), catalog)
        corpus.add(*range(SESSIONS))
        other_spec = corpus.build(spec=replace(SMALL, hop_length=32)).version
        version = corpus.build(split=SplitSpec(val_fraction=0.3, test_fraction=0.1)).version
        without_test = corpus.build(split=SplitSpec(val_fraction=0.2, test_fraction=0), refit="never").version
        other_basis = corpus.build(split=SplitSpec(seed=1), refit="always").version
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
    return World(directory / "store", train(directory, version), version, without_test, other_spec, other_basis)


def train(directory: Path, version: str) -> Path:
    """One epoch, through the command that users have."""
    small = ["--backbone", "test_convnext2", "--epochs", "1", "--batch-size", "8"]
    where = ["--store", str(directory / "store"), "--features", version, "--dir", str(directory / "run"), "--no-tracking"]
    result = CliRunner().invoke(main, ["train", *where, *small, "--json"])
    assert result.exit_code == 0, result.output
    return directory / "run" / "last.ckpt"


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", *arguments])


def edited(world: World, directory: Path, **changes: Any) -> str:
    """The checkpoint with other contents."""
    content = torch.load(world.checkpoint, weights_only=True)
    torch.save({**content, **changes}, directory / "edited.ckpt")
    return str(directory / "edited.ckpt")


def answering(world: World, directory: Path, outputs: tuple[float, float], raw_sigma: tuple[float, float]) -> str:
    """A network that says the same of every row."""
    weights = torch.load(world.checkpoint, weights_only=True)["state_dict"]
    for head, answer in (("position", outputs), ("uncertainty", raw_sigma)):
        last = max(name for name in weights if name.startswith(f"net.{head}_head.") and name.endswith(".weight"))
        weights[last] = torch.zeros_like(weights[last])
        weights[last.removesuffix("weight") + "bias"] = torch.tensor(answer)
    return edited(world, directory, state_dict=weights)


def on_plane(latitude: float, longitude: float, position: Float64) -> Float64:
    """Metres east and north on the plane that touches the Earth there, by way of geocentric coordinates."""
    geocentric = Transformer.from_crs("EPSG:4979", "EPSG:4978")
    height = np.zeros(len(position))
    place = np.stack(geocentric.transform(position[:, 0], position[:, 1], height), axis=1)
    origin = np.array(geocentric.transform(latitude, longitude, 0.0))
    phi, lam = math.radians(latitude), math.radians(longitude)
    east = np.array([-math.sin(lam), math.cos(lam), 0])
    north = np.array([-math.sin(phi) * math.cos(lam), -math.sin(phi) * math.sin(lam), math.cos(phi)])
    return np.asarray((place - origin) @ np.stack([east, north], axis=1))


def test_the_command_measures_draws_and_writes(world: World, tmp_path: Path) -> None:
    out, file = tmp_path / "plots", tmp_path / "new" / "predictions.parquet"
    result = command(
        str(world.checkpoint), "--store", world.store.as_uri(), "--out", str(out), "--predictions", str(file), "--json"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    opened = open_set(str(world.store), world.version)
    val = np.flatnonzero(opened.labels.split == Split.VAL)
    assert (found["version"], found["split"], found["rows"]) == (world.version, "val", len(val))
    assert found["checkpoint"]["features"]["version"] == world.version
    assert len(found["checkpoint"]["sha256"]) == 64
    shared = set(found["metrics"]) & set(found["baselines"]["k_nearest"])
    assert {"rows", "error_mean_m", "error_median_m", "error_p68_m", "error_p90_m", "error_p95_m", "within_1_km"} <= shared
    assert sum(part["rows"] for part in found["metrics"]["by_receiver"].values()) == len(val)
    assert list(found["metrics"]["by_snr"]) == ["0 to 10 dB"]
    assert found["notes"] == []
    names = ["error_cdf.png", "calibration.png", "map.png", "error_by_snr.png", "metrics.json"]
    assert found["files"] == [str(file), *(str(out / name) for name in names)]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert json.loads((out / "metrics.json").read_text())["metrics"] == found["metrics"]
    check_predictions(pq.read_table(file).to_pydict(), world, found)


def check_predictions(table: dict[str, list[Any]], world: World, found: dict[str, Any]) -> None:
    """Every row is there once, with its own labels, and pyproj finds the same errors."""
    opened = open_set(str(world.store), world.version)
    row = np.array(table["row"])
    np.testing.assert_array_equal(row, np.flatnonzero(opened.labels.split == Split.VAL))
    for name in ("capture_id", "window", "websdr_id"):
        np.testing.assert_array_equal(table[name], opened.fact(name)[row])
    assert table["session_id"] == [str(uuid.UUID(bytes=digits.tobytes())) for digits in opened.fact("session_id")[row]]
    true = np.stack([table["latitude"], table["longitude"]], axis=1)
    predicted = np.stack([table["predicted_latitude"], table["predicted_longitude"]], axis=1)
    np.testing.assert_array_equal(true, opened.labels.position[row])
    np.testing.assert_allclose(table["snr_db"], opened.labels.snr_db[row])
    assert set(table["frequency_mhz"]) == {145.0}
    error_m = Geod(ellps="WGS84").inv(true[:, 1], true[:, 0], predicted[:, 1], predicted[:, 0])[2]
    np.testing.assert_allclose(table["error_m"], error_m, rtol=1e-9)
    assert found["metrics"]["error_mean_m"] == pytest.approx(np.mean(error_m))
    region = found["checkpoint"]["region"]
    difference = on_plane(region["latitude"], region["longitude"], predicted)
    difference -= on_plane(region["latitude"], region["longitude"], true)
    np.testing.assert_allclose(np.stack([table["east_error_m"], table["north_error_m"]], axis=1), difference, atol=1e-3)
    share = [table[f"{axis}_error_m"] / np.array(table[f"sigma_{axis}_m"]) for axis in ("east", "north")]
    assert found["metrics"]["coverage_2_sigma"] == np.mean(np.hypot(*share) <= 2)


def test_the_table_is_for_people(world: World) -> None:
    result = command(str(world.checkpoint), "--store", str(world.store), "--split", "test", "--k", "3", "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert f"on the test split of feature set {world.version}" in lines[1]
    assert re.split("  +", lines[3].strip()) == ["network", "3 nearest", "predict the mean"]
    for start in ("mean error, km", "p95 error, km", "within 1 km", "calibration error", "in the 2 σ ellipse (86.5%"):
        assert sum(line.startswith(start) for line in lines) == 1, start
    for receiver in ("1", "2", "3"):
        assert any(line.split()[:1] == [receiver] for line in lines)


def test_a_network_of_known_answers(world: World, tmp_path: Path) -> None:
    """One point and one σ for every row: errors are geodesics to it, and everything else follows in closed form."""
    checkpoint = answering(world, tmp_path, (0.25, -0.5), (0.0, 0.0))
    found = evaluate(world.request(checkpoint=checkpoint, k=0))
    assert isinstance(found, Evaluation)
    opened = open_set(str(world.store), world.version)
    true = opened.labels.position[opened.labels.split == Split.VAL]
    region = read_checkpoint(checkpoint).region
    half = region.half_extent_m
    deviation = np.array([0.25, -0.5]) * half - on_plane(region.latitude, region.longitude, true)
    sigma = float(found.predictions.sigma_east_m[0])
    assert 0.01 * half <= sigma <= half
    likelihood = (deviation**2).sum(axis=1) / (2 * sigma**2) + 2 * math.log(sigma) + math.log(2 * math.pi)
    assert found.metrics["nll"] == pytest.approx(likelihood.mean(), rel=1e-6)
    assert found.metrics["expected_error_m"] == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=1e-6)
    assert found.metrics["coverage_1_sigma"] == np.mean(np.hypot(*deviation.T) <= sigma)
    place = found.predictions.position[0]
    repeated = np.broadcast_to(place, true.shape)
    error_m = Geod(ellps="WGS84").inv(true[:, 1], true[:, 0], repeated[:, 1], repeated[:, 0])[2]
    # A chord's shadow on the plane is shorter than the arc by far less than a thousandth within these 30 km.
    np.testing.assert_allclose(error_m, np.hypot(*deviation.T), rtol=1e-3)
    assert found.metrics["error_mean_m"] == pytest.approx(error_m.mean(), rel=1e-9)
    assert found.metrics["error_median_m"] == pytest.approx(np.median(error_m), rel=1e-9)
    assert list(found.baselines) == ["predict_the_mean"]


def test_the_batch_size_does_not_matter(world: World) -> None:
    first, second = (evaluate(world.request(batch_size=size, k=0)) for size in (1, 64))
    assert isinstance(first, Evaluation)
    assert isinstance(second, Evaluation)
    np.testing.assert_array_equal(first.row, second.row)
    np.testing.assert_allclose(first.predictions.position, second.predictions.position, atol=1e-5)


def test_baselines_are_those_of_brute_force(world: World) -> None:
    found = evaluate(world.request(k=1))
    opened = open_set(str(world.store), world.version)
    chunks = []
    for segment in opened.segments:
        read = [opened.read_features(segment, chunk) for chunk in range(len(opened.checksums(segment)))]
        chunks.append(np.concatenate(read)[: segment.n_rows])
    features = np.concatenate(chunks)
    position, split = opened.labels.position, opened.labels.split
    train, val = (features[split == code].astype(np.float64).reshape((split == code).sum(), -1) for code in (0, 1))
    nearest = [int(np.square(train - query).sum(axis=1).argmin()) for query in val]
    true, predicted = position[split == Split.VAL], position[split == Split.TRAIN][nearest]
    expected = Geod(ellps="WGS84").inv(true[:, 1], true[:, 0], predicted[:, 1], predicted[:, 0])[2]
    np.testing.assert_allclose(found.baselines["k_nearest"].error_m, expected, atol=1e-3)
    assert found.baselines["k_nearest"].train_rows == len(train)


def test_a_sample_of_rows_is_taken_and_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_set(str(world.store), world.version)
    monkeypatch.setattr(baselines, "MAX_TRAIN_ROWS", 20)
    monkeypatch.setattr(baselines, "MAX_QUERIES", 5)
    first, second = (nearest_baseline(opened, Split.VAL, 2, 2, Silent()) for _ in range(2))
    np.testing.assert_array_equal(first.error_m, second.error_m)
    assert (len(first.error_m), first.train_rows) == (5, 20)
    n_train, n_val = (opened.manifest.counts[name] for name in ("train", "val"))
    assert first.notes == (
        f"2 nearest: among 20 of the {n_train} train rows, chosen at random",
        f"2 nearest: for 5 of the {n_val} rows, spread evenly; the others for all",
    )


def test_what_may_have_been_trained_on_is_said(world: World) -> None:
    found = evaluate(world.request(split="train"))
    assert "k_nearest" not in found.baselines
    assert any("rows of a train split" in note for note in found.notes)
    assert any("its own nearest" in note for note in found.notes)
    other = evaluate(world.request(version=world.without_test, k=0))
    assert f"feature set {world.version} is split otherwise" in other.notes[0]
    assert any(line.startswith("note: feature set") for line in other.lines())


def test_it_works_in_s3(world: World, bucket: str) -> None:
    store = open_objects(Location.parse(f"{bucket}/features").url)
    for key, content in tree(world.store).items():
        if "/logmel/" not in key:  # training and evaluation read the normalized tensors alone
            store.put(key, content)
    open_objects(Location.parse(f"{bucket}/models").url).put("run/last.ckpt", world.checkpoint.read_bytes())
    result = command(f"{bucket}/models/run/last.ckpt", "--store", f"{bucket}/features", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    local = evaluate(world.request(batch_size=256))
    assert json.loads(result.stdout)["metrics"] == local.metrics
    missing = command(f"{bucket}/models/run/best.ckpt", "--store", f"{bucket}/features")
    assert missing.exit_code == 2
    assert f"there is no checkpoint {bucket}/models/run/best.ckpt" in missing.stderr


def test_checkpoints_that_are_none_are_refused(world: World, tmp_path: Path) -> None:
    whole, spoilt = world.checkpoint.read_bytes(), tmp_path / "spoilt.ckpt"
    with pytest.raises(UsageError, match="cannot be read"):
        evaluate(world.request(checkpoint=str(tmp_path / "absent.ckpt")))
    for content in (whole[: len(whole) // 2], b"", b"no checkpoint"):
        spoilt.write_bytes(content)
        with pytest.raises(UsageError, match="damaged, cut short or no checkpoint"):
            evaluate(world.request(checkpoint=str(spoilt)))
    torch.save({"anything": 1}, spoilt)
    with pytest.raises(UsageError, match="no checkpoint of heimdall train"):
        evaluate(world.request(checkpoint=str(spoilt)))


class Harmful:
    """What runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(world: World, tmp_path: Path) -> None:
    checkpoint = edited(world, tmp_path, callbacks=Harmful(tmp_path / "ran"))
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps({"state_dict": Harmful(tmp_path / "ran")}, protocol=2))
    for source in (checkpoint, str(tmp_path / "plain.ckpt")):
        result = command(source, "--store", str(world.store))
        assert result.exit_code == 2
        assert ("could run code" if source == checkpoint else "no checkpoint") in result.stderr
    assert not (tmp_path / "ran").exists()


def test_other_features_are_refused(world: World) -> None:
    with pytest.raises(UsageError, match=r"hop_length 64 \(the set has 32\)"):
        evaluate(world.request(version=world.other_spec))
    with pytest.raises(UsageError, match="normalized by basis"):
        evaluate(world.request(version=world.other_basis))


def test_sets_and_splits_that_are_not_there_are_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"test split of .* has no rows; evaluate on one that has: train \(\d+\), val \(\d+\)"):
        evaluate(world.request(version=world.without_test, split="test"))
    with pytest.raises(UsageError, match="holds no feature set or tag 'never'"):
        evaluate(world.request(version="never"))
    with pytest.raises(UsageError, match="--features names another"):
        evaluate(world.request(store=str(tmp_path)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--predictions", "predictions.txt"], "expected a name that ends in .parquet or .csv"),
        (["--predictions", "/proc/nothing/p.csv"], "cannot be made"),
        (["--out", "/proc/nothing"], "cannot be made"),
        (["--k", "-1"], "k is -1; expected 0 or more"),
        (["--k", "1000"], "give a --k up to that"),
        (["--batch-size", "0"], "batch_size is 0; expected 1 or more"),
        (["--threads", "0"], "threads is 0; expected 1 or more"),
    ],
)
def test_options_that_cannot_be_used_are_refused_early(world: World, arguments: list[str], message: str) -> None:
    result = command(str(world.checkpoint), "--store", str(world.store), *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_requests_are_checked() -> None:
    with pytest.raises(UsageError, match="split is 'dev'; expected one of train, val, test"):
        EvaluateRequest("a.ckpt", "store", split="dev")
    with pytest.raises(UsageError, match="device is 'tpu'"):
        EvaluateRequest("a.ckpt", "store", device="tpu")


def test_a_network_that_diverged_is_noticed(world: World, tmp_path: Path) -> None:
    with pytest.raises(DataQualityError, match="not finite"):
        evaluate(world.request(checkpoint=answering(world, tmp_path, (math.nan, 0.0), (0.0, 0.0))))


def test_a_damaged_chunk_is_named(world: World, tmp_path: Path) -> None:
    for name, content in tree(world.store).items():
        target = tmp_path / "store" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if "/features-" in name and "/c/" in name else content)
    with pytest.raises(StoreError, match="fetched twice"):
        evaluate(world.request(store=str(tmp_path / "store")))
