"""The commands `train`, `sweep`, `evaluate` and `doctor`."""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from featurestore.commands.shell import JSON, QUIET, RECEIVERS, STORE, Place, emit, share_cores
from trainer.defaults import by_locate, defaults_of
from trainer.sweep.presets import PRESETS

CACHE_HELP = "Keep the set in memory once it was read: on the GPU, in RAM, where it fits (auto), or not at all."


@click.command()
@STORE
@click.option("--features", "version", default="latest", show_default=True, help="Feature set: a version or a tag.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default="checkpoints",
    show_default=True,
    help="Where checkpoints go: the three best and the last.",
)
@click.option("--checkpoints", "upload_to", metavar="URL", help="Copy checkpoints there, too: s3://BUCKET/PREFIX.")
@click.option("--resume", metavar="last|PATH", help="Go on from a checkpoint, exactly.")
@click.option(
    "--locate",
    type=click.Choice(["session", "capture"]),
    help="What is located: transmissions, by all that heard them, or each capture by itself.  [default: session where most "
    "sessions have two receivers or more; capture with --backbone]",
)
@click.option(
    "--fusion",
    type=click.Choice(["radio-map", "attention"]),
    default="radio-map",
    show_default=True,
    help="Of sessions: levels and a kriged map of each receiver, or self-attention over captures.",
)
@click.option(
    "--encoder", default="levels", show_default=True, help="Of a session's captures: levels, or a ConvNeXt as for --backbone."
)
@click.option(
    "--receivers-by",
    type=click.Choice(["identity", "position", "both"]),
    default="both",
    show_default=True,
    help="How sessions know receivers; by position also those that training never heard.",
)
@click.option("--grid-km", default=0.0, metavar="KM", help="Cells of a session's posterior.  [default: by region]")
@click.option(
    "--exclude-receiver", "exclude_receivers", multiple=True, type=int, metavar="N", help="Leave a receiver out; repeatable."
)
@click.option("--backbone", metavar="NAME", help="tiny, small, base, large, or a ConvNeXt's name in timm.  [default: large]")
@click.option("--pretrained", is_flag=True, help="Begin with the backbone's weights from timm's hub.")
@click.option(
    "--weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Begin with a timm checkpoint (.safetensors); needs no hub.",
)
@click.option("--dropout", default=0.1, show_default=True, help="Of both heads.")
@click.option("--drop-path", default=0.1, show_default=True, help="Stochastic depth of the backbone.")
@click.option("--freeze-backbone", is_flag=True, help="Train neck and heads only.")
@click.option("--gradient-checkpointing", is_flag=True, help="Less memory, more time.")
@click.option("--batch-size", type=int, help=f"Rows of one device's batch, or sessions.  {by_locate('batch_size')}")
@click.option("--epochs", "max_epochs", type=int, help=f"Epochs, at most.  {by_locate('max_epochs')}")
@click.option("--warmup-epochs", type=int, help=f"Epochs until the learning rate is highest.  {by_locate('warmup_epochs')}")
@click.option("--learning-rate", type=float, help=f"Highest learning rate, of AdamW.  {by_locate('learning_rate')}")
@click.option("--weight-decay", type=float, help=f"Of AdamW.  {by_locate('weight_decay')}")
@click.option("--patience", default=10, show_default=True, help="Epochs without improvement until training stops.")
@click.option(
    "--loss",
    "kind",
    type=click.Choice(["gaussian-nll", "beta-nll"]),
    default="gaussian-nll",
    show_default=True,
    help="beta-nll keeps rows with a large sigma from being neglected.",
)
@click.option("--beta", default=0.5, show_default=True, help="Of beta-nll.")
@click.option("--mean-warmup-epochs", default=0, show_default=True, help="Epochs in which sigma is held.")
@click.option(
    "--band-dropout", type=float, help=f"Augmentation: probability that a mel band is zeroed.  {by_locate('band_dropout')}"
)
@click.option(
    "--time-dropout", type=float, help=f"Augmentation: probability that a frame is zeroed.  {by_locate('time_dropout')}"
)
@click.option("--max-shift", type=int, help=f"Augmentation: largest shift in frames.  {by_locate('max_shift')}")
@click.option("--scale", type=float, help=f"Augmentation: values are multiplied by 1 +/- this, at most.  {by_locate('scale')}")
@click.option("--seed", default=42, show_default=True, help="Of weights, order, dropout and augmentation.")
@click.option("--cache", type=click.Choice(["auto", "gpu", "ram", "off"]), default="auto", show_default=True, help=CACHE_HELP)
@click.option("--threads", default=4, show_default=True, help="Threads that fetch chunks.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "32", "bf16", "16"]),
    default="auto",
    show_default=True,
    help="auto: mixed bf16 on GPUs that have it.",
)
@click.option("--compile", is_flag=True, help="Compile the step; the first one takes a minute or so.")
@click.option("--profile", is_flag=True, help="See where a step goes: table and trace in DIR/profile.")
@click.option("--accelerator", default="auto", show_default=True, help="auto, gpu or cpu.")
@click.option("--devices", default="auto", show_default=True, help="How many on each node, or which, as 0,1.")
@click.option("--num-nodes", default=1, show_default=True, help="Machines that train together.")
@click.option("--strategy", default="auto", show_default=True, help="Lightning's: ddp, ...; auto is ddp on several devices.")
@click.option(
    "--tracking-uri", envvar="MLFLOW_TRACKING_URI", default="sqlite:///mlflow.db", show_default=True, help="Of MLflow."
)
@click.option("--experiment", default="heimdall", show_default=True, help="Of MLflow; created when there is none.")
@click.option("--artifacts", metavar="URL", help="Where a new experiment keeps files, as s3://BUCKET/PREFIX.")
@click.option("--run-name", help="Of MLflow.")
@click.option("--no-tracking", is_flag=True, help="Without MLflow.")
@JSON
@QUIET
def train(*, as_json: bool, quiet: bool, **options: Any) -> None:
    """Train a network on a feature set: reads the store and nothing else.

    Where several receivers heard a transmission, they locate it together (--locate session): a posterior of place from all of
    its captures. A --backbone asks for a network that sees one capture.

    Ctrl-C (or SIGTERM) saves last.ckpt and stops; the same command with --resume last goes on exactly there. Several GPUs of
    one machine are used without being asked for; for several machines see Lightning's variables (MASTER_ADDR, NODE_RANK).

    \b
    Examples:
      heimdall train --store s3://features --features baseline --checkpoints s3://checkpoints
      heimdall train --store ./features --accelerator cpu --no-tracking
      heimdall train --store ./features --fusion attention --exclude-receiver 5
      heimdall train --store ./features --backbone convnext_atto --epochs 5 --no-tracking
      heimdall train --store ./features --backbone convnext_atto --epochs 5 --resume last
      heimdall train --store s3://features --tracking-uri postgresql+psycopg://me@db/mlflow --artifacts s3://mlflow
    """
    share_cores()
    from featurestore.progress import on_stderr
    from trainer import fit

    request = _train_request(**options)
    with on_stderr(quiet) as progress:
        report = fit(request, progress)
    if report is not None:  # ranks but the first have nothing to say
        emit(report.to_json(), as_json, lambda _: click.echo("\n".join(report.lines())))


def _train_request(*, no_tracking: bool, tracking_uri: str, seed: int, **options: Any) -> Any:
    """The `TrainRequest` that the options of `train` describe."""
    from trainer.fitting.locate import choose_locate
    from trainer.fitting.request import Hardware, TrainRequest
    from trainer.fitting.tracking import TrackingRequest
    from trainer.network.augment import AugmentSpec
    from trainer.network.loss import LossSpec
    from trainer.network.network_spec import NetworkSpec
    from trainer.network.session.spec import SessionSpec
    from trainer.network.training_spec import OptimizerSpec, TrainingSpec
    from trainer.stream.source import StreamOptions

    def take(kind: Any, **more: Any) -> Any:
        return kind(**{field.name: options.pop(field.name) for field in fields(kind) if field.name in options}, **more)

    locate = choose_locate(options.pop("locate"), options["backbone"], options["store"], options["version"])
    session = take(SessionSpec) if locate == "session" else None
    for name in ("fusion", "encoder", "receivers_by", "grid_km", "exclude_receivers"):
        options.pop(name, None)
    for name, value in defaults_of(locate if session is None else session.fusion).items():
        options[name] = value if options[name] is None else options[name]
    tracking = take(TrackingRequest, uri=tracking_uri)
    return TrainRequest(
        training=TrainingSpec(take(NetworkSpec), take(OptimizerSpec), take(LossSpec), take(AugmentSpec), seed, session),
        stream=take(StreamOptions),
        hardware=take(Hardware),
        tracking=None if no_tracking else tracking,
        **options,
    )


def _like_train(command: click.Command) -> click.Command:
    """Give a command the options of `train` too, as the values of all that it does not vary."""
    own = {parameter.name for parameter in command.params} | {
        "upload_to",
        "resume",
        "profile",
        "devices",
        "num_nodes",
        "strategy",
    }
    command.params += [parameter for parameter in train.params if parameter.name not in own]
    return command


@_like_train
@click.command()
@click.option("--study", "name", required=True, help="Name of the study; the same one goes on with it, or joins in.")
@click.option(
    "--storage",
    default="sqlite:///sweep.db",
    show_default=True,
    metavar="URL",
    help="Where studies are: sqlite:///FILE, or postgresql://USER@HOST/DATABASE for several machines (schema optuna).",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Learning rate x batch size x dropout x weight decay: "
    + "; ".join(f"{name}: {' '.join(searches)}" for name, searches in PRESETS.items())
    + ".  [default, without --search: standard; ranges for tpe and random]",
)
@click.option(
    "--search",
    "searches",
    multiple=True,
    metavar="NAME=VALUES",
    help="A hyperparameter to vary, as batch_size=64,128 or dropout=0..0.5 or learning_rate=log:1e-4..3e-3; repeatable, and "
    "before the preset's. Any of network, optimizer, loss and augmentation; a wrong name lists them.",
)
@click.option(
    "--sampler",
    type=click.Choice(["grid", "tpe", "random"]),
    help="Each combination once, where earlier trials were good, or by chance.  [default: grid; tpe where there is a range]",
)
@click.option(
    "--trials", type=click.IntRange(min=1), help="Of the study, over all processes.  [default: all of a grid, else 50]"
)
@click.option(
    "--objective",
    type=click.Choice(["loss", "error"]),
    default="loss",
    show_default=True,
    help="What is minimized: validation loss, or mean error in km at the epoch with the lowest loss.",
)
@click.option(
    "--pruner", type=click.Choice(["median", "hyperband"]), default="median", show_default=True, help="Ends bad trials early."
)
@click.option("--no-pruning", is_flag=True, help="Run every trial to its end.")
@click.option(
    "--prune-after", type=click.IntRange(min=1), help="Epochs before which none is ended.  [default: --warmup-epochs]"
)
@click.option("--startup-trials", default=5, show_default=True, help="Complete trials before the median counts.")
@click.option(
    "--out",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="For sweep.json, sweep.png, and the best network trained here.  [default: sweep-NAME]",
)
@JSON
@QUIET
def sweep(
    *,
    name: str,
    directory: Path | None,
    storage: str,
    preset: str | None,
    searches: tuple[str, ...],
    sampler: str | None,
    objective: str,
    no_pruning: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Search hyperparameters: many trainings, of which bad ones end early, and a table and a picture of what they found.

    The same command on several GPUs (CUDA_VISIBLE_DEVICES) or machines (--storage postgresql://...) works on one study.
    Each network trains on one device. A trial whose process is lost begins again after two minutes; Ctrl-C gives it back.
    The options of train are the values of what is not searched; all processes must give the same.

    \b
    Examples:
      heimdall sweep --study first --store ./features --backbone convnext_atto --epochs 20
      heimdall sweep --study grid --store s3://features --preset wide --storage postgresql://me@db/radio
      heimdall sweep --study tpe --store s3://features --sampler tpe --trials 60 --objective error --no-tracking
      heimdall sweep --study own --store ./features --search learning_rate=log:1e-4..3e-3 --search scale=0,0.05,0.1
    """
    share_cores()
    from featurestore.progress import on_stderr
    from trainer.sweep.report import save
    from trainer.sweep.sweep import SweepRequest, plan_study
    from trainer.sweep.sweep import sweep as run_sweep

    limits = {key: options.pop(key) for key in ("trials", "prune_after", "startup_trials")}
    pruner = options.pop("pruner")
    base = _train_request(directory=directory or Path(f"sweep-{name}"), **options)
    plan = plan_study(name, base, preset, searches, sampler=sampler, pruner=None if no_pruning else pruner, **limits)
    with on_stderr(quiet) as progress:
        report = run_sweep(SweepRequest(base, plan, storage, objective), progress)
    pictures = save(report, base.directory)
    emit(report.to_json(), as_json, lambda _: click.echo("\n".join([*report.lines(), *map(str, pictures)])))


@click.command()
@click.argument("checkpoint")
@STORE
@click.option(
    "--features", "version", help="Feature set: a version or a tag.  [default: the one that the network was trained on]"
)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="val", show_default=True, help="Which rows.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Draw plots there, and write metrics.json; created when absent.",
)
@click.option(
    "--predictions",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write one row for each prediction, as .parquet or .csv.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a report as one HTML page: errors, calibration, map, worst cases, training curves.",
)
@click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    default="sqlite:///mlflow.db",
    show_default=True,
    help="Of MLflow, for the report's training curves; it need not answer.",
)
@RECEIVERS
@click.option("--against", metavar="CHECKPOINT", help="Another network beside it, for sessions or captures.")
@click.option("--batch-size", default=256, show_default=True, help="Rows at a time.")
@click.option("--k", default=5, show_default=True, help="Neighbours of the k-nearest baseline; 0 leaves it out.")
@click.option("--threads", default=4, show_default=True, help="Threads that fetch chunks.")
@JSON
@QUIET
def evaluate(*, as_json: bool, quiet: bool, **options: Any) -> None:
    """Measure a trained network on a split of a feature set, beside what knowing nothing achieves.

    CHECKPOINT is a file, or s3://BUCKET/…/NAME.ckpt. Errors are in km on the ground; likelihood, calibration and coverage
    say whether the network's σ can be believed. The set must be of the spec and basis that the network was trained on.
    Networks for sessions are measured by session, with random subsets of the receivers, too.

    \b
    Examples:
      heimdall evaluate checkpoints/last.ckpt --store ./features
      heimdall evaluate checkpoints/last.ckpt --store s3://features --split test --out evaluation
      heimdall evaluate checkpoints/last.ckpt --store ./features --html evaluation.html --receivers receivers.csv
      heimdall evaluate checkpoints/last.ckpt --store ./features --against capture/last.ckpt
      heimdall evaluate s3://models/run/last.ckpt --store s3://features --predictions test.parquet --json
    """
    share_cores()
    from featurestore.progress import on_stderr
    from trainer.evaluate.request import EvaluateRequest
    from trainer.evaluate.run import evaluate as run_evaluation

    request = EvaluateRequest(**options)
    with on_stderr(quiet) as progress:
        found = run_evaluation(request, progress)
    emit(found.to_json(), as_json, lambda _: click.echo("\n".join(found.lines())))


@click.command()
@click.option("--catalog", metavar="URL", help="postgresql://USER@HOST/DATABASE.  [default: what PGHOST, PGDATABASE, ... say]")
@click.option(
    "--query-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="SQL for a catalog with another schema.",
)
@click.option("--raw", cls=Place, metavar="URL", help="Where captures are; only read.")
@click.option("--store", cls=Place, metavar="URL", help="Where features are; an object is written there, and deleted again.")
@click.option("--models", cls=Place, metavar="URL", help="Where checkpoints or releases go; likewise.")
@click.option("--scheduler", envvar="DASK_SCHEDULER_ADDRESS", metavar="ADDR", help="Dask scheduler, as tcp://HOST:8786.")
@click.option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="Of MLflow.")
@click.option(
    "--dir",
    "checkpoints",
    type=click.Path(file_okay=False, path_type=Path),
    default="checkpoints",
    show_default=True,
    help="Where training writes checkpoints.",
)
@JSON
@QUIET
def doctor(
    *,
    catalog: str | None,
    query_file: Path | None,
    tracking_uri: str | None,
    checkpoints: Path,
    as_json: bool,
    quiet: bool,
    **places: Any,
) -> None:
    """Look whether everything is there that the commands need, and say what to do about what is not.

    Software, PostgreSQL, raw captures, stores, Dask, MLflow, GPU, clocks and disk are looked at side by side; what is not
    given is left out. Exit code: 0 when nothing failed, 75 when all that failed is services that do not answer, else 1.

    \b
    Examples:
      heimdall doctor
      heimdall doctor --catalog postgresql://me@db/radio --raw s3://captures --store s3://features
      heimdall doctor --store ./features --tracking-uri sqlite:///mlflow.db --json
    """
    share_cores()
    from featurestore.doctor.services import Places
    from featurestore.progress import on_stderr
    from featurestore.source.catalog import read_query
    from trainer.doctor import DoctorRequest, diagnose

    if catalog is None and any(os.environ.get(name) for name in ("PGHOST", "PGHOSTADDR", "PGDATABASE", "PGSERVICE")):
        catalog = ""
    query = None if query_file is None else read_query(query_file)
    with on_stderr(quiet) as progress:
        found = diagnose(DoctorRequest(Places(catalog, query, **places), tracking_uri, checkpoints), progress)
    emit(found.to_json(), as_json, lambda _: click.echo("\n".join(found.lines())))
    sys.exit(found.exit_code)
