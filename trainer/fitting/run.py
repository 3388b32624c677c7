"""Train: a feature set → checkpoints and metrics. Wires data, module, callbacks and tracker together."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from featurestore.errors import HeimdallError, UsageError, first_line
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Progress, Silent
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.split import Split
from trainer.evaluate.request import EvaluateRequest
from trainer.evaluate.run import evaluate
from trainer.fitting.callbacks import DataWait, EpochProgress, leave_out_idle_hooks
from trainer.fitting.engine import callbacks, lightning
from trainer.fitting.epoch_loop import use_lean_loop
from trainer.fitting.interrupt import InterruptedTrainingError, StopOnSignal
from trainer.fitting.loader import FeatureDataModule
from trainer.fitting.module import LocalizationModule, RowLabels
from trainer.fitting.profile import StepProfile
from trainer.fitting.request import LAST, TrainReport, TrainRequest
from trainer.fitting.session_module import SessionLabels, SessionModule
from trainer.fitting.tracking import KeepRunId, Tracker, open_tracker
from trainer.fitting.uploads import UploadCheckpoints
from trainer.network.checkpoints import Checkpoint, TrainedOn, read_checkpoint
from trainer.network.geometry import Region
from trainer.network.model import LocalizationNet
from trainer.network.weights import load_weights

BEST_CHECKPOINTS = 3


def fit(
    request: TrainRequest, progress: Progress | None = None, watchers: Sequence[callbacks.Callback] = ()
) -> TrainReport | None:
    """Train a network on a feature set.

    Args:
        request: what, on what, and where to.
        progress: told of epochs and steps; silent without.
        watchers: more callbacks for Lightning.

    Returns:
        What came out; `None` on all ranks but the first.

    Raises:
        UsageError: when an option, the set or a checkpoint cannot be used.
        DataQualityError: when training diverged.
        StoreError: when the set is damaged.
        ServiceUnavailableError: when store or tracker do not answer.
        InterruptedTrainingError: on SIGINT or SIGTERM, when the state is saved.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of hardware and of their maker's products
    is_first = getattr(lightning.pytorch.utilities.rank_zero_only, "rank", 0) == 0
    return _Training(request, (progress if is_first else None) or Silent(), watchers).run()


class _Training:
    """One training: its parts, made in the order in which they need each other."""

    def __init__(self, request: TrainRequest, progress: Progress, more_watchers: Sequence[callbacks.Callback]) -> None:
        self._request = request
        self._more_watchers = more_watchers
        self._progress = progress
        self._resumed = _resumed(request, progress.say)
        self._feature_set = open_set(request.store, request.version)
        if self._resumed is not None:
            self._resumed.features.require_same(self._feature_set, self._resumed.source)
        counts = self._feature_set.manifest.counts
        progress.say(f"feature set {self._feature_set.version}: {counts['train']:,} train, {counts['val']:,} validation rows")
        by = "row" if request.training.session is None else "session"
        self._data = FeatureDataModule(self._feature_set, request.batch_size, request.training.seed, request.stream, by=by)
        self._module = _module(request, self._feature_set, progress.say)
        self._tracker = self._open_tracker()
        shared: dict[str, Any] = {
            "dirpath": request.directory.absolute(),
            "enable_version_counter": False,
            "save_on_train_epoch_end": True,  # then the epoch is complete, and the next one begins on resume
        }
        self._best = callbacks.ModelCheckpoint(
            filename="{epoch:03d}", monitor="val/loss", save_top_k=BEST_CHECKPOINTS, **shared
        )
        # Not `save_last`: that one saves only when the epoch was one of the best.
        self._last = callbacks.ModelCheckpoint(filename=LAST, **shared)
        self._uploads = self._open_uploads()
        self._trainer = self._lightning_trainer()

    def run(self) -> TrainReport | None:
        """Train to the end, or until a signal."""
        began = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # as when a run goes on
                warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)  # between Lightning 2.6 and torch 2.13
                resume_from = None if self._resumed is None else self._resumed.source
                self._trainer.fit(self._module, datamodule=self._data, ckpt_path=resume_from, weights_only=True)
        except BaseException as error:
            self._break_off("KILLED" if isinstance(error, InterruptedTrainingError) else "FAILED")
            raise
        if not self._trainer.is_global_zero:
            return None
        if "val/loss" not in self._trainer.callback_metrics:
            raise UsageError(
                f"the run in {self._request.directory} is complete: {self._trainer.current_epoch} epochs; "
                "go on with more --epochs, or begin a new one in another --dir"
            )
        urls = None if self._uploads is None else self._uploads.finish(self._request.last)
        if self._tracker is not None and self._tracker.keeps_files:
            self._tell(self._tracker, urls)
        return self._report(time.monotonic() - began, urls)

    def _tell(self, tracker: Tracker, urls: dict[str, Any] | None) -> None:
        """Keep with the run where its best checkpoint is, and pictures of how good that is."""
        best = Path(self._best.best_model_path)
        if urls is None:
            tracker.log_files([best], "checkpoints")
        else:
            tracker.set_tags({"checkpoint.best": urls["best"], "checkpoint.last": urls["last"]})
        with TemporaryDirectory() as name:
            wanted = EvaluateRequest(str(best), self._request.store, self._feature_set.version, k=0, out=Path(name))
            evaluate(wanted, self._progress)
            tracker.log_files(sorted(Path(name).iterdir()), "evaluation")

    def _break_off(self, status: str) -> None:
        """Save what can be saved, without hiding why training ended."""
        if self._uploads is not None and self._trainer.is_global_zero and self._request.last.is_file():
            try:
                self._uploads.finish(self._request.last)
            except HeimdallError as error:
                self._progress.say(f"warning: checkpoints are in {self._request.directory}, but not all uploaded ({error})")
        if self._tracker is not None:
            self._tracker.finalize(status)

    def _report(self, seconds: float, urls: dict[str, Any] | None) -> TrainReport:
        logged = {name: float(value) for name, value in self._trainer.callback_metrics.items()}
        metrics = {name.removeprefix("val/"): value for name, value in logged.items() if name.startswith("val/")}
        return TrainReport(
            version=self._feature_set.version,
            epochs=self._trainer.current_epoch,
            best=self._best.best_model_path,
            best_val_loss=float("nan" if self._best.best_model_score is None else self._best.best_model_score),
            last=str(self._request.last),
            val_loss=metrics.pop("loss"),
            metrics=metrics,
            seconds=round(seconds, 3),
            run_id=None if self._tracker is None else self._tracker.run_id,
            urls=urls,
        )

    def _open_tracker(self) -> Tracker | None:
        request = self._request
        if request.tracking is None:
            return None
        run_id = None if self._resumed is None else self._resumed.run_id
        tracker = open_tracker(request.tracking, run_id, self._progress.say)
        hardware, stream = request.hardware, request.stream
        parameters = {
            **request.training.flat(),
            "batch_size": request.batch_size,
            "patience": request.patience,
            **{f"hardware.{name}": value for name, value in vars(hardware).items()},
            **{f"stream.{name}": value for name, value in vars(stream).items()},
            **{f"features.{name}": value for name, value in self._feature_set.spec.to_json().items()},
            **{f"region.{name}": value for name, value in self._module.region.to_json().items()},
        }
        if run_id is None or tracker.run_id != run_id:  # parameters of a run never change
            tracker.describe(parameters, self._feature_set)
        return tracker

    def _open_uploads(self) -> UploadCheckpoints | None:
        base = self._request.upload_to
        if base is None:
            return None
        run = self._tracker.run_id if self._tracker is not None else self._feature_set.version
        location = Location.parse(base)
        open_objects(location.url).check()
        return UploadCheckpoints(open_objects(f"{location}/{run}"), self._best, self._progress.say)

    def _lightning_trainer(self) -> lightning.Trainer:
        request, hardware = self._request, self._request.hardware
        watchers: list[callbacks.Callback] = [
            callbacks.EarlyStopping("val/loss", patience=request.patience, min_delta=1e-4),
            DataWait(self._progress.say),
            EpochProgress(self._progress),
            StopOnSignal(request.last, self._progress.say),
            *self._more_watchers,
            self._best,
            self._last,
        ]
        if self._tracker is not None:
            watchers += [callbacks.LearningRateMonitor("epoch"), KeepRunId(self._tracker)]
        if self._uploads is not None:
            watchers.append(self._uploads)
        if request.profile:
            watchers.append(StepProfile(request.directory / "profile", self._progress.say))
        leave_out_idle_hooks(watchers)
        try:
            trainer = lightning.Trainer(
                accelerator=hardware.accelerator,
                devices=hardware.devices,
                num_nodes=hardware.num_nodes,
                strategy=hardware.strategy,
                precision=hardware.lightning_precision,
                max_epochs=request.training.optimizer.max_epochs,
                logger=self._tracker or False,
                callbacks=watchers,
                use_distributed_sampler=False,  # the stream shares rows out among ranks itself
                num_sanity_val_steps=0,
                log_every_n_steps=0,  # all that is logged is logged by epoch
                enable_model_summary=False,
                enable_progress_bar=False,  # it writes to stdout, where results go
            )
        except (lightning.fabric.utilities.exceptions.MisconfigurationException, ValueError, TypeError) as error:
            raise UsageError(
                f"accelerator {hardware.accelerator!r}, devices {hardware.devices!r} and strategy {hardware.strategy!r} are "
                f"not available here ({first_line(error)}); leave them out to take what there is"
            ) from error
        use_lean_loop(trainer)
        return trainer


def _module(request: TrainRequest, feature_set: FeatureSet, say: Callable[[str], None]) -> LocalizationModule | SessionModule:
    training, labels = request.training, feature_set.labels
    region = Region.around(labels.position[labels.split == Split.TRAIN])
    say(
        f"region: {region.half_extent_m / 1000:,.1f} km around {region.latitude:.4f}, {region.longitude:.4f}; "
        "a unit of the targets is that many km"
    )
    trained_on, pretrained = TrainedOn.of(feature_set), request.pretrained and request.resume is None
    sessions = None if training.session is None else SessionLabels.of(feature_set)
    lightning.seed_everything(training.seed, verbose=False)  # for the initial weights
    if training.session is None or sessions is None:
        rows = RowLabels(labels.position, feature_set.fact("websdr_id"), labels.snr_db)
        module: LocalizationModule | SessionModule = LocalizationModule(
            training, region, trained_on, rows, pretrained=pretrained
        )
    else:
        place = sessions.place(training.session, region)
        say(
            f"sessions: {len(sessions.train):,} train, {len(sessions.val):,} validation, by {len(place.websdr_id)} receivers; "
            f"{training.title}, cells of {place.cell_m / 1000:g} km"
        )
        module = SessionModule(training, place, trained_on, sessions, pretrained=pretrained)
    _begin_with_weights(module, request, say)
    if request.hardware.compile:
        module.compile_steps(say, request.batch_size)
    return module


def _begin_with_weights(module: LocalizationModule | SessionModule, request: TrainRequest, say: Callable[[str], None]) -> None:
    if request.weights is None:
        return
    net = module.net if isinstance(module, LocalizationModule) else getattr(module.net.encoder, "net", None)
    if not isinstance(net, LocalizationNet):
        raise UsageError("--weights are of a ConvNeXt, and the encoder 'levels' is none; name one with --encoder")
    say(str(load_weights(net, request.weights)))


def _resumed(request: TrainRequest, say: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint to go on from, checked.

    Raises:
        UsageError: when it does not fit; or when a new run would mix its checkpoints with those of another.
    """
    if request.resume is None:
        if checkpoints := sorted(path.name for path in request.directory.glob("*.ckpt")):
            raise UsageError(
                f"{request.directory} holds checkpoints of an earlier run ({', '.join(checkpoints)}); go on with "
                "--resume last, or "
                "give another --dir"
            )
        return None
    if request.weights is not None:
        raise UsageError("--weights begins a new training, and --resume goes on with one; give one of them")
    path = request.last if request.resume == LAST else Path(request.resume)
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path} to resume from; look in {path.parent}, or leave --resume out")
    checkpoint = read_checkpoint(path.absolute())
    for theirs, ours in (
        (checkpoint.training.network, request.training.network),
        (checkpoint.training.session, request.training.session),
    ):
        if theirs != ours:
            raise UsageError(
                f"{path} holds a network {theirs or 'for captures'}, and {ours or 'one for captures'} was asked for; resume "
                "with the same options, or begin a new run"
            )
    before, now = checkpoint.training.flat(), request.training.flat()
    for name in now:
        if before[name] != now[name]:
            say(f"note: {name} was {before[name]}, and is {now[name]} from here on; the run is no exact continuation")
    return checkpoint
