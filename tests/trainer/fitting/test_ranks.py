"""Two processes that train together (DDP with gloo): each row once, equal steps, metrics of all rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from corpus_for_tests import Corpus

from featurestore.store.feature_set import open_set
from featurestore.store.split import Split
from trainer import read_checkpoint
from trainer.evaluate.metrics import Predictions, measure
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = '''
"""heimdall train, which notes the rows that each rank gets."""
import json, os
from pathlib import Path
import cli
from trainer.fitting.module import LocalizationModule

out = Path(os.environ["NOTES"])
for stage in ("training", "validation"):
    def note(self, batch, batch_idx, stage=stage, step=getattr(LocalizationModule, f"{stage}_step")):
        with (out / f"{stage}-{self.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps([self.current_epoch, batch.row.tolist()]) + "\\n")
        return step(self, batch, batch_idx)
    setattr(LocalizationModule, f"{stage}_step", note)
if __name__ == "__main__":
    cli.main()
'''
BATCH, EPOCHS = 4, 2


@pytest.fixture(scope="module")
def trained(training_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    directory = tmp_path_factory.mktemp("ranks")
    program = directory / "program.py"
    program.write_text(PROGRAM)
    where = ["--store", str(training_corpus.store), "--features", "small", "--dir", str(directory / "run")]
    what = ["--backbone", "test_convnext2", "--epochs", str(EPOCHS), "--batch-size", str(BATCH), "--no-tracking", "--json"]
    how = ["--accelerator", "cpu", "--devices", "2", "--strategy", "ddp"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NOTES": str(directory)}
    done = subprocess.run(
        [sys.executable, str(program), "train", *where, *what, *how],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()  # one rank speaks
    return directory, json.loads(line)


def served(directory: Path, stage: str, rank: int, epoch: int) -> list[list[int]]:
    lines = (directory / f"{stage}-{rank}.jsonl").read_text().splitlines()
    return [rows for number, rows in map(json.loads, lines) if number == epoch]


def test_ranks_share_each_epoch_as_the_order_promises(training_corpus: Corpus, trained: tuple[Path, object]) -> None:
    feature_set = open_set(str(training_corpus.store), "small")
    for epoch in range(EPOCHS):
        shares = [served(trained[0], "training", rank, epoch) for rank in range(2)]
        for rank, share in enumerate(shares):
            data = FeatureStream(feature_set, DataOptions(BATCH, 42, 2), StreamOptions(cache="off"), rank)
            assert share == [plan.rows.tolist() for plan in data.order(Split.TRAIN, epoch).batches()]
        rows = [row for share in shares for batch in share for row in batch]
        n_train = int((feature_set.labels.split == Split.TRAIN).sum())
        assert len(shares[0]) == len(shares[1]) == n_train // (2 * BATCH)
        assert len(rows) == len(set(rows)) > n_train - 2 * BATCH
        assert (feature_set.labels.split[rows] == Split.TRAIN).all()


def test_validation_serves_each_row_once(training_corpus: Corpus, trained: tuple[Path, object]) -> None:
    split = open_set(str(training_corpus.store), "small").labels.split
    for epoch in range(EPOCHS):
        rows = [
            row for rank in range(2) for batch in served(trained[0], "validation", rank, epoch) for row in batch if row >= 0
        ]
        assert sorted(rows) == np.flatnonzero(split == Split.VAL).tolist()


def test_metrics_are_those_of_all_rows(training_corpus: Corpus, trained: tuple[Path, dict[str, object]]) -> None:
    """Computed again, by one process, from the last checkpoint."""
    feature_set = open_set(str(training_corpus.store), "small")
    checkpoint = read_checkpoint(trained[0] / "run" / "last.ckpt")
    net = checkpoint.network()
    data = FeatureStream(feature_set, DataOptions(64), StreamOptions(cache="off"))
    batches = [(batch.row.numpy(), net(batch.features.float()).detach().double().numpy()) for batch in data.evaluate(Split.VAL)]
    row, outputs = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    labels = feature_set.labels
    receiver = feature_set.fact("websdr_id")[row]
    predictions = Predictions.from_outputs(checkpoint.region, outputs, labels.position[row], receiver, labels.snr_db[row])
    expected = measure(predictions, checkpoint.region.half_extent_m)
    reported = trained[1]["metrics"]
    assert isinstance(reported, dict)
    for name, value in reported.items():
        assert value == pytest.approx(expected[name], rel=1e-3), name
