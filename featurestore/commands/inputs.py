"""Where captures come from: `services`, `simulate`, `ingest`; and the `demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.commands.record_options import options_of, record_of
from featurestore.commands.shell import (
    CATALOG,
    JSON,
    QUIET,
    RAW_TO,
    SCHEDULER,
    WORKERS,
    Sections,
    emit,
    emit_report,
    option,
    reported,
)
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.option import OUTPUT

if TYPE_CHECKING:
    from featurestore.progress import Progress


@click.group("services")
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
@click.option(
    "--s3-server",
    type=click.Choice(["seaweedfs", "swift"]),
    help="Which S3 server to run.  [default: the one that wrote the directory's objects, else SeaweedFS where it is installed]",
)
@click.option("--no-s3", is_flag=True, help="Leave S3 out.")
@click.option("--no-postgres", is_flag=True, help="Leave PostgreSQL out.")
@click.option("--json", "as_json", is_flag=True, help="Print the variables as one JSON object instead of shell lines.")
def up(directory: Path, command: str | None, s3_server: str | None, no_s3: bool, no_postgres: bool, as_json: bool) -> None:
    """Run PostgreSQL and S3 on 127.0.0.1 until Ctrl-C, or for as long as one command runs.

    Prints the variables that lead clients to them. HEIMDALL_RAW, HEIMDALL_STORE and HEIMDALL_MODELS name the buckets: every
    command reads them where no --raw, --store or --models is given.

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
        emit(foreground.environment(running), as_json, [foreground.exports(running)])

    with on_stderr() as progress:
        context = services.running(directory, postgres=not no_postgres, s3=not no_s3 and (s3_server or True))
        sys.exit(foreground.up(context, command, announce, progress))


@click.command(cls=Sections)
@RAW_TO
@CATALOG
@options_of(SimulationSpec)
@option(
    "--truth",
    heading=OUTPUT,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for what is true of each capture.  [default: truth.csv in the raw location]",
)
@WORKERS
@SCHEDULER
@reported
def simulate(
    progress: Progress,
    *,
    raw: str,
    catalog: str,
    truth: Path | None,
    workers: int | None,
    scheduler: str | None,
    **options: Any,
) -> Any:
    """Write a physically credible corpus: captures, catalog rows and the truth about them.

    The same options write the same bytes, whatever the number of workers. More sessions of the same seed add to those
    that are there. What is modelled, and why, is in docs/simulator.md.

    \b
    Examples:
      heimdall simulate --raw ./raw --catalog postgresql://me@localhost/radio
      heimdall simulate --raw s3://captures/demo --sessions 500 --sites uniform --dtype complex64
      heimdall simulate --raw ./raw --sites uniform --clock gps --sample-rate-hz 48000
      heimdall simulate --raw ./raw --approved-fraction 0.8 --broken-fraction 0.05 --truth ./truth.csv
    """
    from featurestore.corpus.simulate.simulate import Destination
    from featurestore.corpus.simulate.simulate import simulate as write_corpus
    from featurestore.objects.objects import Location

    spec = record_of(SimulationSpec, options)
    destination = Destination(Location.parse(raw), catalog, truth)
    return write_corpus(spec, destination, progress, workers=workers, scheduler=scheduler)


@click.command()
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
@click.option(
    "--receivers",
    metavar="CSV",
    help="Where receivers stand, before what labels say: websdr_id, latitude, longitude, name; a file or s3://…",
)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Recordings converted at the same time.")
@click.option("--strict", is_flag=True, help="Exit with 3 when any recording was skipped, not only when all were.")
@JSON
@QUIET
def ingest(
    *, directory: Path, labels: Path, raw: str, catalog: str, strict: bool, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Bring labelled recordings from DIRECTORY into the raw location and the catalog.

    Reads .npy, SigMF, WAV IQ (KiwiSDR's GPS WAVs too, at their true rate), .uff and raw .cu8 .cs8 .cs16 .cf32. Frequency and
    time come from headers and file names where the labels give none; SNR is estimated. Times without a zone
    are UTC. Run again, it writes only what has changed. A file that cannot be read is skipped and listed with the reason;
    the exit code is 0 as long as one went in, see --strict.

    \b
    Examples:
      heimdall ingest recordings --labels labels.csv --raw ./raw --catalog postgresql://me@localhost/radio
      heimdall ingest recordings --labels labels.csv --raw s3://captures --resample-to 192000
      heimdall ingest kiwi --labels kiwi.csv --raw ./raw --resample-to 12000 --split-seconds 5
    """
    from featurestore.corpus.ingest.conversion import IngestOptions
    from featurestore.corpus.ingest.ingest import ingest as bring_in
    from featurestore.corpus.ingest.ingested import require_quality
    from featurestore.objects.objects import Location
    from featurestore.progress import on_stderr

    with on_stderr(quiet) as progress:
        result = bring_in(directory, labels, Location.parse(raw), catalog, IngestOptions(**options), progress)
    emit_report(result, as_json)
    require_quality(result, strict)


@click.command()
@click.option(
    "--dir",
    "directory",
    default="demo",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything goes; the same directory again goes on from there.",
)
@click.option("--s3", is_flag=True, help="Keep captures and features in the embedded S3 instead of files.")
@click.option("--sessions", default=300, show_default=True, type=click.IntRange(min=5), help="Transmissions to begin with.")
@click.option("--epochs", default=3, show_default=True, type=click.IntRange(min=1), help="Of the network for single captures.")
@click.option("--features-only", is_flag=True, help="End with the features, without training and exporting.")
def demo(directory: Path, s3: bool, sessions: int, epochs: int, features_only: bool) -> None:
    """The whole job on simulated captures and embedded services: simulate, build, train, evaluate, export, predict.

    Each step is a command that is printed before it runs, so that it can be repeated.

    \b
    Examples:
      heimdall demo
      heimdall demo --s3 --dir /tmp/demo-s3 --sessions 40 --epochs 4
    """
    from featurestore.commands.demo import Demo, run

    more_sessions = sessions + max(1, sessions // 10)
    run(Demo(directory.absolute(), s3, sessions, more_sessions, 0 if features_only else epochs), click.echo)
