"""Checkpoints that are copied to S3 while training goes on, and are never changed there."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainings_for_tests import tiny_training

from featurestore.errors import ServiceUnavailableError, StoreError, UsageError
from featurestore.objects.objects import open_objects
from trainer import TrainRequest, fit, read_checkpoint


def test_the_best_and_the_last_are_in_s3_under_names_that_hold_their_digest(tiny: TrainRequest, bucket: str) -> None:
    report = fit(replace(tiny, upload_to=f"{bucket}/runs"))
    assert report is not None
    assert report.urls is not None
    objects = open_objects(f"{bucket}/runs/{report.version}")
    assert objects.get_json("checkpoints.json") == report.urls
    for url, path in ((report.urls["best"], report.best), (report.urls["last"], report.last)):
        content = Path(path).read_bytes()
        assert hashlib.sha256(content).hexdigest()[:12] in url
        assert objects.get(url.rpartition("/")[2]) == content
    assert len(report.urls["kept"]) == 2
    remote = read_checkpoint(report.urls["best"])
    local = read_checkpoint(report.best)
    assert remote.sha256 == local.sha256
    assert all(torch.equal(tensor, local.weights[name]) for name, tensor in remote.weights.items())
    assert not list(tiny.directory.glob(".upload-*"))

    before = {info.key: info.etag for info in objects.walk()}
    prolonged = fit(replace(tiny, upload_to=f"{bucket}/runs", training=tiny_training(3), resume="last"))
    assert prolonged is not None
    after = {info.key: info.etag for info in objects.walk()}
    assert all(after[key] == etag for key, etag in before.items() if key != "checkpoints.json")
    assert len(after) > len(before)


def test_a_bucket_that_is_not_there_is_noticed_before_training(tiny: TrainRequest, bucket: str) -> None:
    with pytest.raises((UsageError, StoreError), match="absent-bucket"):
        fit(replace(tiny, upload_to="s3://absent-bucket/runs"))
    assert not tiny.last.exists()


def test_a_store_that_goes_away_keeps_no_training_from_its_end(
    tiny: TrainRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory becomes a file behind the first epoch: nothing can be written there any more."""
    place = tmp_path / "runs"
    place.mkdir()

    def spoil(self: object, trainer: object, module: object) -> None:
        if getattr(trainer, "current_epoch") == 0:  # noqa: B009
            for directory in sorted(place.rglob("*"), reverse=True):
                directory.rmdir()
            place.rmdir()
            place.write_text("in the way")

    monkeypatch.setattr("trainer.fitting.callbacks.DataWait.on_train_epoch_end", spoil)
    with pytest.raises((StoreError, UsageError, ServiceUnavailableError)):
        fit(replace(tiny, upload_to=str(place)))
    assert read_checkpoint(tiny.last).epoch == 1  # it trained to the end
