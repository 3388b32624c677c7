"""Checkpoints in an object store: written once under a name that holds their digest, never changed, never deleted.

Training saves to local files only (Lightning can delete a remote file it resumes from, #21813); the best ones are copied
while the next epoch runs, so that a lost machine costs no more than an epoch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from featurestore.errors import HeimdallError
from featurestore.objects.objects import Objects
from trainer.fitting.engine import callbacks, lightning

DIGEST_DIGITS = 12
INDEX = "checkpoints.json"


def upload(objects: Objects, path: Path) -> str:
    """Copy a checkpoint to a store, unless it is there.

    Args:
        objects: where to.
        path: a file that nobody writes to any more.

    Returns:
        Its URL: `{location}/{name}-{digest}.ckpt`.

    Raises:
        StoreError: when the store refuses.
        ServiceUnavailableError: when it does not answer.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_DIGITS]
    key = f"{path.stem}-{digest}{path.suffix}"
    objects.put_file(key, path)
    return f"{objects.location}/{key}"


class UploadCheckpoints(callbacks.Callback):
    """Copies the best checkpoints while training goes on, and all that are left when it ends.

    Args:
        objects: where to.
        checkpoints: what saves them.
        say: prints a line for the user.
    """

    def __init__(self, objects: Objects, checkpoints: callbacks.ModelCheckpoint, say: Callable[[str], None]) -> None:
        self._objects = objects
        self._checkpoints = checkpoints
        self._say = say
        self._urls: dict[str, Future[str]] = {}
        self._pool = ThreadPoolExecutor(1, "upload-checkpoints")
        self._staging: TemporaryDirectory[str] | None = None

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Begin to copy what the validation before has brought."""
        if trainer.is_global_zero:
            for path in self._checkpoints.best_k_models:
                if path not in self._urls:
                    self._urls[path] = self._pool.submit(self._upload, self._stage(Path(path)))

    def _stage(self, path: Path) -> Path:
        """The same file under a name by which Lightning cannot delete it."""
        if self._staging is None:
            self._staging = TemporaryDirectory(prefix=".upload-", dir=path.parent, ignore_cleanup_errors=True)
        staged = Path(self._staging.name) / path.name
        try:
            os.link(path, staged)
        except OSError:  # a file system without links
            shutil.copyfile(path, staged)
        return staged

    def _upload(self, path: Path) -> str:
        try:
            return upload(self._objects, path)
        except HeimdallError as error:
            self._say(f"warning: {path.name} is not uploaded yet ({error}); it is tried again at the end")
            raise
        finally:
            path.unlink()

    def finish(self, last: Path) -> dict[str, Any]:
        """Copy what is missing, and write an index of what there is.

        Returns:
            URLs: `best`, `last`, and `kept` {URL: val/loss}; the content of `checkpoints.json`.

        Raises:
            StoreError, ServiceUnavailableError: see `upload`; the checkpoints are in their directory all the same.
        """
        self._pool.shutdown(wait=True)
        if self._staging is not None:
            self._staging.cleanup()
        kept = {self._url(path): float(score) for path, score in self._checkpoints.best_k_models.items()}
        best = self._checkpoints.best_model_path
        index = {"best": self._url(best) if best else None, "last": upload(self._objects, last), "kept": kept}
        self._objects.put_json(INDEX, index)
        return index

    def _url(self, path: str) -> str:
        done = self._urls.get(path)
        return done.result() if done is not None and done.exception() is None else upload(self._objects, Path(path))
