"""The command line: parses options, calls one library function, prints. No logic of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import click

from featurestore.errors import HeimdallError

CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HEIMDALL", "max_content_width": 110}


class Group(click.Group):
    """A group whose commands end with one clear line and the right exit code, never with a traceback, on our errors."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HeimdallError as error:
            fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            fail("interrupted; run the same command again to go on from here", 130)


def fail(message: str, exit_code: int) -> NoReturn:
    """Print one line on stderr and leave."""
    click.echo(f"error: {message}", err=True)
    sys.exit(exit_code)


def emit(result: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    """Print a result: as one JSON object, or by `show`."""
    if as_json:
        click.echo(json.dumps(result, allow_nan=False))
    else:
        show(result)


def share_cores() -> None:
    """Let torch's idle threads sleep instead of spinning; to be called before torch is imported.

    The threads of the stream need the cores: beside other work, training on two cores takes a sixth of the time (docs/log.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# Options that several commands have.
CATALOG = click.option(
    "--catalog", default="", metavar="URL", help="postgresql://USER@HOST/DATABASE; without it, PGHOST, PGUSER, … say where."
)
RAW_TO = click.option(
    "--raw", required=True, metavar="URL", help="Where captures go: s3://BUCKET/PREFIX, file:///DIR or a directory."
)
STORE = click.option(
    "--store", required=True, metavar="URL", help="Where features are: s3://BUCKET/PREFIX, file:///DIR or a directory."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
CACHE_HELP = "Keep the set in memory once it was read: on the GPU, in RAM, where it fits (auto), or not at all."
QUIET = click.option("--quiet", is_flag=True, help="No progress on stderr.")


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(package_name="heimdall-featurestore")
def main() -> None:
    """Feature store and lean trainer for radio source localization."""


# --- services ---


@main.group("services")
def services_group() -> None:
    """Embedded PostgreSQL and S3, for trying things out; not for production."""


@services_group.command()
@click.option(
    "--dir",
    "directory",
    default="heimdall-services",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where data, logs and credentials are kept; the same directory brings back the same data.",
)
@click.option(
    "--exec", "command", metavar="CMD", help="Run this shell command, stop the services after it, exit with its code."
)
@click.option("--no-s3", is_flag=True, help="Leave S3 out.")
@click.option("--no-postgres", is_flag=True, help="Leave PostgreSQL out.")
@click.option("--json", "as_json", is_flag=True, help="Print the variables as one JSON object instead of shell lines.")
def up(directory: Path, command: str | None, no_s3: bool, no_postgres: bool, as_json: bool) -> None:
    """Run PostgreSQL and S3 on 127.0.0.1 until Ctrl-C, or for as long as one command runs.

    Prints the variables that lead clients to them; HEIMDALL_RAW, HEIMDALL_STORE and HEIMDALL_MODELS name the buckets.

    \b
    Examples:
      heimdall services up                          # then paste the printed lines into other shells
      heimdall services up --dir /tmp/try --exec 'heimdall build-features --help && env | grep HEIMDALL_'
      heimdall services up --no-s3 --exec bash      # a shell in which psql, or anything else, finds PostgreSQL
    """
    from featurestore import services
    from featurestore.progress import on_stderr
    from featurestore.services import foreground

    def announce(running: services.Running) -> None:
        emit(foreground.environment(running), as_json, lambda _: click.echo(foreground.exports(running)))

    with on_stderr() as progress:
        context = services.running(directory, postgres=not no_postgres, s3=not no_s3)
        sys.exit(foreground.up(context, command, announce, progress))


# --- simulate ---


@main.command()
@RAW_TO
@CATALOG
@click.option("--sessions", default=60, show_default=True, help="Transmissions, each heard by seven receivers at once.")
@click.option("--seed", default=7, show_default=True, help="Names the simulated world and all that is drawn in it.")
@click.option(
    "--sites",
    type=click.Choice(["repeaters", "uniform"]),
    default="repeaters",
    show_default=True,
    help="Transmit from ten known hilltops, or from anywhere in the region.",
)
@click.option("--duration", "duration_s", default=1.0, show_default=True, help="Length of every capture in seconds.")
@click.option("--sample-rate-hz", default=192_000.0, show_default=True, help="Rate of every capture.")
@click.option(
    "--dtype",
    type=click.Choice(["complex64", "complex128"]),
    default="complex128",
    show_default=True,
    help="Type of the samples in the .npy files.",
)
@click.option("--approved-fraction", default=1.0, show_default=True, help="Share of sessions that are approved.")
@click.option(
    "--broken-fraction", default=0.0, show_default=True, help="Share of captures spoilt, by every rejection reason in turn."
)
@click.option(
    "--min-snr-db", type=float, default=None, help="Leave out captures below this SNR in 12.5 kHz.  [default: keep all]"
)
@click.option(
    "--truth",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="File for what is true of each capture.  [default: truth.csv in the raw location]",
)
@click.option("--workers", type=click.IntRange(min=0), default=None, help="Worker processes; 0 works in this process.")
@click.option("--scheduler", envvar="DASK_SCHEDULER_ADDRESS", default=None, metavar="ADDR", help="Dask scheduler to use.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@QUIET
def simulate(
    *,
    raw: str,
    catalog: str,
    truth: Path | None,
    workers: int | None,
    scheduler: str | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Write a physically credible corpus: captures, catalog rows and the truth about them.

    The same options write the same bytes, whatever the number of workers. More sessions of the same seed add to those
    that are there. What is modelled, and why, is in docs/simulator.md.

    \b
    Examples:
      heimdall simulate --raw ./raw --catalog postgresql://me@localhost/radio
      heimdall simulate --raw s3://captures/demo --sessions 500 --sites uniform --dtype complex64
      heimdall simulate --raw ./raw --approved-fraction 0.8 --broken-fraction 0.05 --truth ./truth.csv
    """
    from featurestore.corpus.simulate import Destination, describe
    from featurestore.corpus.simulate import simulate as write_corpus
    from featurestore.corpus.simulation_spec import SimulationSpec
    from featurestore.objects import Location
    from featurestore.progress import on_stderr

    spec = SimulationSpec(**options)
    destination = Destination(Location.parse(raw), catalog, truth)
    with on_stderr(quiet) as progress:
        report = write_corpus(spec, destination, progress, workers=workers, scheduler=scheduler)
    emit(report.to_json(), as_json, lambda _: click.echo("\n".join(describe(report))))


# --- ingest ---


@main.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--labels",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV or JSON, one row per file: file, websdr_id, latitude, longitude and more (docs/ingest.md).",
)
@RAW_TO
@CATALOG
@click.option(
    "--resample-to", "resample_to_hz", type=float, help="Rate of the captures in Hz.  [default: each recording's own]"
)
@click.option("--sample-rate-hz", type=float, help="Rate of the recordings for which neither header nor label states one.")
@click.option("--swap-iq", is_flag=True, help="The files store Q before I; a label's swap_iq column overrides this.")
@click.option("--split-seconds", type=float, help="Cut each recording into captures of this length, each with its own session.")
@click.option(
    "--dtype",
    type=click.Choice(["complex64", "complex128"]),
    default="complex64",
    show_default=True,
    help="Type of the samples in the .npy files.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Recordings converted at the same time.")
@click.option("--strict", is_flag=True, help="Exit with 3 when any recording was skipped, not only when all were.")
@JSON
@QUIET
def ingest(
    *, directory: Path, labels: Path, raw: str, catalog: str, strict: bool, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Bring labelled recordings from DIRECTORY into the raw location and the catalog.

    Reads .npy, SigMF, WAV IQ (KiwiSDR's GPS WAVs too, at their true rate) and raw .cu8 .cs8 .cs16 .cf32. Times without a
    zone are UTC. Run again, it writes only what has changed. A file that cannot be read is skipped and listed with the
    reason; the exit code is 0 as long as one went in, see --strict.

    \b
    Examples:
      heimdall ingest recordings --labels labels.csv --raw ./raw --catalog postgresql://me@localhost/radio
      heimdall ingest recordings --labels labels.csv --raw s3://captures --resample-to 192000
      heimdall ingest kiwi --labels kiwi.csv --raw ./raw --resample-to 12000 --split-seconds 5
    """
    from featurestore.corpus.conversion import IngestOptions
    from featurestore.corpus.ingest import ingest as bring_in
    from featurestore.corpus.ingested import require_quality
    from featurestore.objects import Location
    from featurestore.progress import on_stderr

    with on_stderr(quiet) as progress:
        result = bring_in(directory, labels, Location.parse(raw), catalog, IngestOptions(**options), progress)
    emit(result.to_json(), as_json, lambda _: click.echo("\n".join(result.lines())))
    require_quality(result, strict)


# --- build-features ---


@main.command("build-features")
@CATALOG
@click.option("--raw", required=True, metavar="URL", help="Where captures are: s3://BUCKET/PREFIX, file:///DIR or a directory.")
@click.option(
    "--store", required=True, metavar="URL", help="Where features go: s3://BUCKET/PREFIX, file:///DIR or a directory."
)
@click.option(
    "--query-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="SQL for a catalog with another schema; it yields the columns of featurestore/schema.sql.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Take only the first captures by id.")
@click.option("--sample-rate-hz", default=192_000.0, show_default=True, help="Rate that captures must have.")
@click.option("--n-fft", default=2048, show_default=True, help="STFT frame length in samples.")
@click.option("--hop-length", default=512, show_default=True, help="Samples from one frame to the next.")
@click.option("--window", default="hann", show_default=True, help="Taper, by its name in scipy.signal.")
@click.option("--n-mels", default=128, show_default=True, help="Mel bands.")
@click.option("--f-min-hz", default=0.0, show_default=True, help="Lower edge of the lowest band.")
@click.option("--f-max-hz", type=float, help="Upper edge of the highest band.  [default: half the sample rate]")
@click.option("--n-frames", default=32, show_default=True, help="STFT frames per tensor.")
@click.option("--windows-per-capture", default=1, show_default=True, help="Tensors per capture, evenly spread over it.")
@click.option("--floor-db", default=-120.0, show_default=True, help="Level in dBFS below which nothing is told apart.")
@click.option("--n-mfcc", default=0, show_default=True, help="Store so many cepstral coefficients, not mel bands; 0: off.")
@click.option("--val-fraction", default=0.1, show_default=True, help="Share of sessions for validation.")
@click.option("--test-fraction", default=0.1, show_default=True, help="Share of sessions for testing.")
@click.option("--split-seed", default=42, show_default=True, help="Turns the circle on which sessions lie.")
@click.option(
    "--split-by",
    type=click.Choice(["session", "region"]),
    default="session",
    show_default=True,
    help="What is never torn apart: a session, or all sessions of a geographic grid cell.",
)
@click.option("--region-degrees", type=float, help="Size of a grid cell, with --split-by region.  [default: 0.1]")
@click.option("--fold", metavar="I/K", help="Cross-validation: validate on [I/K, (I+1)/K) of the circle, train on the rest.")
@click.option(
    "--refit",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Fit mean and std anew: when the train rows have more than doubled, always, or never.",
)
@click.option(
    "--max-rejected-fraction",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Publish nothing, and exit with 3, when more captures are rejected.",
)
@click.option("--tag", metavar="NAME", help="Give the feature set a name.")
@click.option("--dry-run", is_flag=True, help="Print what would be done; write nothing.")
@click.option(
    "--workers", type=click.IntRange(min=0), help="Worker processes; 0 works in this process.  [default: by the amount of work]"
)
@click.option("--scheduler", envvar="DASK_SCHEDULER_ADDRESS", metavar="ADDR", help="Dask scheduler to use, as tcp://HOST:8786.")
@JSON
@QUIET
def build_features(
    *,
    catalog: str,
    raw: str,
    store: str,
    query_file: Path | None,
    split_seed: int,
    split_by: str,
    fold: str | None,
    as_json: bool,
    quiet: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Turn every approved capture into log-mel tensors: catalog + raw captures → a feature set.

    Only what is not in the store yet is computed: newly approved captures cost themselves, another split or a corrected
    label costs no tensor, and an interrupted build goes on where it was. The set's version names its content: the same
    input and parameters give the same version. docs/format.md says what is written, docs/features.md what a tensor is.

    \b
    Examples:
      heimdall build-features --raw ./raw --store ./features --catalog postgresql://me@localhost/radio
      heimdall build-features --raw s3://captures --store s3://features --tag baseline
      heimdall build-features --raw s3://captures --store s3://features --hop-length 1024 --dry-run
      heimdall build-features --raw s3://captures --store s3://features --fold 2/5 --scheduler tcp://10.0.0.5:8786
    """
    from featurestore.build import BuildRequest, build
    from featurestore.objects import Location
    from featurestore.preview import preview
    from featurestore.progress import on_stderr
    from featurestore.spec import FeatureSpec, SplitSpec

    spec = FeatureSpec(**{field.name: options.pop(field.name) for field in fields(FeatureSpec)})
    arcs = {name: options.pop(name) for name in ("val_fraction", "test_fraction", "region_degrees")}
    split = SplitSpec(**arcs, seed=split_seed, by=split_by, fold=None if fold is None else SplitSpec.parse_fold(fold))
    query = None if query_file is None else query_file.read_text()
    request = BuildRequest(catalog, Location.parse(raw), Location.parse(store), spec, split, query, **options)
    with on_stderr(quiet) as progress:
        report = preview(request, progress) if dry_run else build(request, progress)
    emit(report.to_json(), as_json, lambda _: click.echo("\n".join(report.lines())))


# --- features ---


@main.group("features")
def features_group() -> None:
    """Look after feature sets."""


@features_group.command("list")
@STORE
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_features(store: str, as_json: bool) -> None:
    """List feature sets, newest first.

    \b
    Examples:
      heimdall features list --store ./features
      heimdall features list --store s3://features --json
    """
    from featurestore.overview import list_lines, summarize

    emit(summarize(store), as_json, lambda found: click.echo("\n".join(list_lines(found))))


@features_group.command("show")
@click.argument("version", default="latest")
@STORE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with mean and std in full.")
def show_features(version: str, store: str, as_json: bool) -> None:
    """Show one feature set: spec, counts, splits, rejections and statistics. VERSION may be a tag; default: the latest.

    \b
    Examples:
      heimdall features show --store ./features
      heimdall features show baseline --store s3://features --json
    """
    from featurestore.overview import show, show_lines

    emit(show(store, version), as_json, lambda shown: click.echo("\n".join(show_lines(shown))))


@features_group.command("gallery")
@click.argument("version", default="latest")
@STORE
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="gallery",
    show_default=True,
    help="Directory for the pictures; created when absent.",
)
@click.option("--rows", default=6, show_default=True, type=click.IntRange(1, 24), help="Tensors to draw.")
def gallery_features(version: str, store: str, out: Path, rows: int) -> None:
    """Draw tensors of a feature set, and its mean and std, as PNG. VERSION may be a tag; default: the latest.

    \b
    Examples:
      heimdall features gallery --store ./features --out pictures
    """
    from featurestore import open_set
    from featurestore.gallery import draw

    for path in draw(open_set(store, version), out, rows):
        click.echo(path)


@features_group.command("verify")
@click.argument("version", default="latest")
@STORE
@JSON
@QUIET
def verify_features(version: str, store: str, as_json: bool, quiet: bool) -> None:
    """Check every object of a feature set: there, whole, and unchanged. VERSION may be a tag; default: the latest.

    Reads manifest, spec, basis, labels, and each segment with all its tensors; changes nothing. Lists what is missing,
    truncated or damaged, with the captures it held, and exits with 1 if there is any.

    \b
    Examples:
      heimdall features verify --store ./features
      heimdall features verify baseline --store s3://features --json
    """
    from featurestore.progress import on_stderr
    from featurestore.verify import verify

    with on_stderr(quiet) as progress:
        found = verify(store, version, progress)
    emit(found.to_json(), as_json, lambda _: click.echo("\n".join(found.lines())))
    found.require_sound()


@features_group.command("trace")
@click.argument("capture_id", type=int)
@STORE
@JSON
def trace_features(capture_id: int, store: str, as_json: bool) -> None:
    """Find a capture, by its id in the catalog: in which sets, rows, windows and splits it is, or why it was rejected.

    \b
    Examples:
      heimdall features trace 4711 --store ./features
      heimdall features trace 4711 --store s3://features --json
    """
    from featurestore.trace import trace

    found = trace(store, capture_id)
    emit(found.to_json(), as_json, lambda _: click.echo("\n".join(found.lines())))


@features_group.command("diff")
@click.argument("a")
@click.argument("b", default="latest")
@STORE
@JSON
def diff_features(a: str, b: str, store: str, as_json: bool) -> None:
    """Compare feature set A with B: parameters, captures, labels, splits, counts, statistics. Each may be a tag.

    \b
    Examples:
      heimdall features diff baseline latest --store ./features
      heimdall features diff baseline candidate --store s3://features --json
    """
    from featurestore.difference import difference

    found = difference(store, a, b)
    emit(found.to_json(), as_json, lambda _: click.echo("\n".join(found.lines())))


@features_group.command("tag")
@click.argument("version")
@click.argument("name")
@STORE
def tag_features(version: str, name: str, store: str) -> None:
    """Let NAME stand for a feature set, wherever a version can be given. VERSION may be a tag, too; a tag in use moves.

    \b
    Examples:
      heimdall features tag latest baseline --store ./features
      heimdall features tag 6d0955736ce6 release-3 --store s3://features
    """
    from featurestore import open_set, sets

    key = f"tags/{sets.check_tag(name)}.json"
    opened = open_set(store, version)
    before = sets.read_pointer(opened.objects, key)
    sets.point(opened.objects, opened.version, name)
    click.echo(f"{name} is {opened.version}" + (f"; it was {before}" if before not in (None, opened.version) else ""))


# --- train ---


@main.command()
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
@click.option("--backbone", default="large", show_default=True, help="tiny, small, base, large, or a ConvNeXt's name in timm.")
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
@click.option("--batch-size", default=256, show_default=True, help="Rows of one device's batch.")
@click.option("--epochs", "max_epochs", default=100, show_default=True, help="Epochs, at most.")
@click.option("--warmup-epochs", default=5, show_default=True, help="Epochs until the learning rate is highest.")
@click.option("--learning-rate", default=1e-3, show_default=True, help="Highest learning rate, of AdamW.")
@click.option("--weight-decay", default=1e-4, show_default=True, help="Of AdamW.")
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
@click.option("--band-dropout", default=0.1, show_default=True, help="Augmentation: probability that a mel band is zeroed.")
@click.option("--time-dropout", default=0.1, show_default=True, help="Augmentation: probability that a frame is zeroed.")
@click.option("--max-shift", default=5, show_default=True, help="Augmentation: largest shift in frames.")
@click.option("--scale", default=0.05, show_default=True, help="Augmentation: values are multiplied by 1 +/- this, at most.")
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
@click.option("--compile", is_flag=True, help="Compile the network; the first step takes a minute or so.")
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
def train(*, no_tracking: bool, tracking_uri: str, seed: int, as_json: bool, quiet: bool, **options: Any) -> None:
    """Train a network on a feature set: reads the store and nothing else.

    Ctrl-C (or SIGTERM) saves last.ckpt and stops; the same command with --resume last goes on exactly there. Several GPUs of
    one machine are used without being asked for; for several machines see Lightning's variables (MASTER_ADDR, NODE_RANK).

    \b
    Examples:
      heimdall train --store s3://features --features baseline --checkpoints s3://checkpoints
      heimdall train --store ./features --backbone convnext_atto --epochs 5 --no-tracking
      heimdall train --store ./features --backbone convnext_atto --epochs 5 --resume last
      heimdall train --store s3://features --tracking-uri postgresql+psycopg://me@db/mlflow --artifacts s3://mlflow
    """
    share_cores()
    from featurestore.progress import on_stderr
    from trainer import fit
    from trainer.augment import AugmentSpec
    from trainer.chunk_source import StreamOptions
    from trainer.loss import LossSpec
    from trainer.model import NetworkSpec
    from trainer.request import Hardware, TrainRequest
    from trainer.tracking import TrackingRequest
    from trainer.training_spec import OptimizerSpec, TrainingSpec

    def take(kind: Any, **more: Any) -> Any:
        return kind(**{field.name: options.pop(field.name) for field in fields(kind) if field.name in options}, **more)

    tracking = take(TrackingRequest, uri=tracking_uri)
    request = TrainRequest(
        training=TrainingSpec(take(NetworkSpec), take(OptimizerSpec), take(LossSpec), take(AugmentSpec), seed),
        stream=take(StreamOptions),
        hardware=take(Hardware),
        tracking=None if no_tracking else tracking,
        **options,
    )
    with on_stderr(quiet) as progress:
        report = fit(request, progress)
    if report is not None:  # ranks but the first have nothing to say
        emit(report.to_json(), as_json, lambda _: click.echo("\n".join(report.lines())))


# --- evaluate ---


@main.command()
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
@click.option("--batch-size", default=256, show_default=True, help="Rows at a time.")
@click.option("--k", default=5, show_default=True, help="Neighbours of the k-nearest baseline; 0 leaves it out.")
@click.option("--threads", default=4, show_default=True, help="Threads that fetch chunks.")
@JSON
@QUIET
def evaluate(*, as_json: bool, quiet: bool, **options: Any) -> None:
    """Measure a trained network on a split of a feature set, beside what knowing nothing achieves.

    CHECKPOINT is a file, or s3://BUCKET/…/NAME.ckpt. Errors are in km on the ground; likelihood, calibration and coverage
    say whether the network's σ can be believed. The set must be of the spec and basis that the network was trained on.

    \b
    Examples:
      heimdall evaluate checkpoints/last.ckpt --store ./features
      heimdall evaluate checkpoints/last.ckpt --store s3://features --split test --out evaluation
      heimdall evaluate s3://models/run/last.ckpt --store s3://features --predictions test.parquet --json
    """
    share_cores()
    from featurestore.progress import on_stderr
    from trainer.evaluate import EvaluateRequest
    from trainer.evaluate import evaluate as run_evaluation

    request = EvaluateRequest(**options)
    with on_stderr(quiet) as progress:
        found = run_evaluation(request, progress)
    emit(found.to_json(), as_json, lambda _: click.echo("\n".join(found.lines())))


# --- export ---

MODELS = click.option(
    "--models", required=True, metavar="URL", help="Where releases are: s3://BUCKET/PREFIX, file:///DIR or a directory."
)
REGISTRY = click.option(
    "--registry-uri", envvar="MLFLOW_TRACKING_URI", default="sqlite:///mlflow.db", show_default=True, help="Of MLflow."
)
MODEL_NAME = click.option("--model-name", default="heimdall", show_default=True, help="Of the registered model.")
NO_REGISTRY = click.option("--no-registry", is_flag=True, help="Without MLflow.")


@main.command()
@click.argument("checkpoint")
@MODELS
@STORE
@click.option(
    "--features",
    "version",
    help="Feature set to validate and measure on: a version or a tag.  [default: the one that the network was trained on]",
)
@click.option("--release", metavar="X.Y.Z", help="Its number.  [default: the next patch; the first is 0.1.0]")
@click.option(
    "--input",
    type=click.Choice(["features", "iq"]),
    help="iq adds model-iq.onnx, which takes raw IQ; needs --raw.  [default: iq with --raw, else features]",
)
@click.option("--raw", metavar="URL", help="Where the set's captures are: the IQ graph is validated on some of them.")
@click.option("--captures", default=16, show_default=True, help="Of how many, at most.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8-weights", "auto"]),
    default="fp32",
    show_default=True,
    help="Of the backbone; auto: the most accurate that fits --max-size-mb.",
)
@click.option("--max-size-mb", type=float, help="Refuse graphs that are larger, in units of 10^6 bytes.  [default: off]")
@click.option("--tolerance-m", default=0.1, show_default=True, help="How far from PyTorch's a position may be, beside ...")
@click.option(
    "--tolerance-relative", default=1e-4, show_default=True, help="... this share of sigma, which goes for sigma, too."
)
@click.option("--promote", is_flag=True, help="Let services use it at once.  [default: the first release only]")
@REGISTRY
@MODEL_NAME
@NO_REGISTRY
@JSON
@QUIET
def export(
    *,
    tolerance_m: float,
    tolerance_relative: float,
    registry_uri: str,
    model_name: str,
    no_registry: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Publish a checkpoint as a validated, versioned ONNX release.

    CHECKPOINT is a file, or s3://BUCKET/.../NAME.ckpt. The graphs are compared with PyTorch on rows of the val split; one that
    differs is not published (exit 3). A release is visible when all of it is there, and is never changed. It is registered
    in MLflow as candidate; services that follow latest.json use it once it is promoted. docs/exporting.md says more.

    \b
    Examples:
      heimdall export checkpoints/last.ckpt --models ./models --store ./features --no-registry
      heimdall export checkpoints/last.ckpt --models s3://models --store s3://features --raw s3://captures --release 1.2.0
      heimdall export last.ckpt --models s3://models --store s3://features --precision auto --max-size-mb 100
    """
    share_cores()
    from exporter.export import export as run_export
    from exporter.registry import RegistryRequest
    from exporter.request import ExportRequest
    from exporter.validate import Tolerance
    from featurestore.progress import on_stderr

    registry = None if no_registry else RegistryRequest(registry_uri, model_name)
    tolerance = Tolerance(absolute_m=tolerance_m, relative=tolerance_relative)
    request = ExportRequest(**options, tolerance=tolerance, registry=registry)
    with on_stderr(quiet) as progress:
        report = run_export(request, progress)
    emit(report.to_json(), as_json, lambda _: click.echo("\n".join(report.lines())))


# --- releases ---


@main.group("releases")
def releases_group() -> None:
    """Look after releases: list, show, compare, promote, roll back.

    \b
    Examples:
      heimdall releases list --models s3://models
      heimdall releases compare 1.1.0 1.2.0 --models s3://models --store s3://features
      heimdall releases promote 1.2.0 --models s3://models
    """


@releases_group.command("list")
@MODELS
@JSON
def list_releases(models: str, as_json: bool) -> None:
    """List releases, the highest number first, and say which one services use.

    \b
    Examples:
      heimdall releases list --models ./models
      heimdall releases list --models s3://models --json
    """
    from exporter.overview import list_lines, summarize

    emit(summarize(models), as_json, lambda found: click.echo("\n".join(list_lines(found))))


@releases_group.command("show")
@click.argument("release", default="latest")
@MODELS
@JSON
def show_release(release: str, models: str, as_json: bool) -> None:
    """Show one release: what it was made of, metrics, files and their digests. RELEASE is a number; default: the latest.

    \b
    Examples:
      heimdall releases show --models ./models
      heimdall releases show 1.2.0 --models s3://models --json
    """
    from exporter.overview import show, show_lines

    emit(show(models, release), as_json, lambda found: click.echo("\n".join(show_lines(found))))


@releases_group.command("compare")
@click.argument("a")
@click.argument("b")
@MODELS
@STORE
@click.option("--features", "version", help="Feature set: a version or a tag.  [default: the one that A was trained on]")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True, help="Which rows.")
@click.option("--confidence", default=0.95, show_default=True, help="Of the interval of the difference.")
@click.option("--draws", default=5000, show_default=True, help="Of the bootstrap over sessions.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
@JSON
def compare_releases(*, as_json: bool, **options: Any) -> None:
    """Run releases A and B over the same rows, offline: errors, calibration, latency, size, and which one is better.

    The verdict is about the mean error, row by row; it is that these rows cannot tell when the confidence interval of the
    difference holds 0. A and B are numbers, or latest.

    \b
    Examples:
      heimdall releases compare latest 1.2.0 --models s3://models --store s3://features
      heimdall releases compare 1.1.0 1.2.0 --models ./models --store ./features --split val --json
    """
    share_cores()
    from exporter.compare import CompareRequest, compare

    found = compare(CompareRequest(**options))
    emit(found.to_json(), as_json, lambda _: click.echo("\n".join(found.lines())))


@releases_group.command("promote")
@click.argument("release")
@MODELS
@REGISTRY
@MODEL_NAME
@NO_REGISTRY
@JSON
def promote_release(release: str, models: str, registry_uri: str, model_name: str, no_registry: bool, as_json: bool) -> None:
    """Let services use a release: moves alias champion, then latest.json. Registers it if that was not done.

    \b
    Examples:
      heimdall releases promote 1.2.0 --models s3://models
      heimdall releases promote 1.2.0 --models ./models --no-registry
    """
    from exporter.latest import promote, read_release

    found = read_release(models, release)
    moved = promote(found, open_registry(registry_uri, model_name, no_registry))
    emit(moved.to_json(), as_json, lambda _: click.echo("\n".join(moved.lines())))


@releases_group.command("rollback")
@MODELS
@REGISTRY
@MODEL_NAME
@NO_REGISTRY
@JSON
def rollback_release(models: str, registry_uri: str, model_name: str, no_registry: bool, as_json: bool) -> None:
    """Let services use the release again that they used before the last promotion.

    \b
    Examples:
      heimdall releases rollback --models s3://models
      heimdall releases rollback --models ./models --no-registry
    """
    from exporter.latest import rollback

    moved = rollback(models, open_registry(registry_uri, model_name, no_registry))
    emit(moved.to_json(), as_json, lambda _: click.echo("\n".join(moved.lines())))


def open_registry(uri: str, model: str, without: bool) -> Any:
    """MLflow's, which has answered; or none."""
    if without:
        return None
    from exporter import registry

    return registry.open_registry(registry.RegistryRequest(uri, model))


# --- predict ---


@main.command()
@click.argument("model")
@click.argument("captures", nargs=-1, type=click.Path(path_type=Path))
@click.option("--models", metavar="URL", help="Where releases are; MODEL is a number then, or latest.")
@click.option("--sample-rate-hz", type=float, help="Of the captures; .npy files do not say it.")
@click.option("--store", metavar="URL", help="Predict from rows of a feature set there, instead of captures.")
@click.option(
    "--features", "version", help="Feature set: a version or a tag.  [default: the one that the network was trained on]"
)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True, help="Which rows.")
@click.option("--limit", type=click.IntRange(min=1), help="So many rows, spread evenly over the split.  [default: all]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "geojson"]),
    help="[default: by the name of --out, else table]",
)
@click.option("--ellipses", is_flag=True, help="In GeoJSON, add a polygon for each 1-sigma ellipse.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write there, not to stdout.")
@JSON
@QUIET
def predict(*, form: str | None, ellipses: bool, out: Path | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Say where transmitters are, from captures or from rows of a feature set; needs no torch.

    MODEL is an .onnx file, a release (s3://BUCKET/PREFIX/v1.2.0 or its directory), or where releases are: the latest of them.
    CAPTURES are .npy files of complex samples, or directories of them; one that is not usable is left out, and said.

    \b
    Examples:
      heimdall predict s3://models recording.npy --sample-rate-hz 192000
      heimdall predict models/v1.2.0 recordings --sample-rate-hz 192000 --out positions.geojson --ellipses
      heimdall predict 1.2.0 --models s3://models --store s3://features --split test --limit 20 --format csv
      heimdall predict model-iq.onnx recording.npy --sample-rate-hz 192000 --json
    """
    share_cores()
    from exporter.serve import PredictRequest, format_of, write_out
    from exporter.serve import predict as run_prediction
    from featurestore.progress import on_stderr

    request, chosen = PredictRequest(**options), format_of(form, out, ellipses=ellipses)
    with on_stderr(quiet) as progress:
        found = run_prediction(request, progress)
    if out is not None:
        write_out(found.write(chosen, ellipses=ellipses), out)
    if as_json:
        click.echo(json.dumps(found.to_json(), allow_nan=False))
    elif out is None:
        click.echo(found.write(chosen, ellipses=ellipses), nl=False)


# --- demo ---


@main.command()
@click.option(
    "--dir",
    "directory",
    default="demo",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything goes; the same directory again goes on from there.",
)
@click.option("--s3", is_flag=True, help="Keep captures and features in the embedded S3 instead of files.")
@click.option("--sessions", default=80, show_default=True, type=click.IntRange(min=5), help="Transmissions to begin with.")
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(min=1), help="Of training.")
@click.option("--features-only", is_flag=True, help="End with the features, without training and exporting.")
def demo(directory: Path, s3: bool, sessions: int, epochs: int, features_only: bool) -> None:
    """The whole job on simulated captures and embedded services: simulate, build, train, evaluate, export, predict.

    Each step is a command that is printed before it runs, so that it can be repeated.

    \b
    Examples:
      heimdall demo
      heimdall demo --s3 --dir /tmp/demo-s3 --sessions 40 --epochs 4
    """
    from featurestore.demo import Demo, run

    more_sessions = sessions + max(1, sessions // 10)
    run(Demo(directory.absolute(), s3, sessions, more_sessions, 0 if features_only else epochs), click.echo)


if __name__ == "__main__":
    main()
