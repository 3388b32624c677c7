"""What commands share: how they end and print, and the options that several of them have."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

import click

from featurestore.errors import HeimdallError
from featurestore.option import DATA, HEADINGS, OUTPUT
from featurestore.option import WORKERS as WORKERS_HEADING

CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HEIMDALL", "max_content_width": 110}


class Group(click.Group):
    """A group whose commands end with one clear line and the right exit code, never with a traceback, on our errors."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _ended_by_sigterm():
                return super().invoke(ctx)
        except HeimdallError as error:
            fail(str(error), error.exit_code)
        except ModuleNotFoundError as error:
            fail(_what_to_install(error), HeimdallError.exit_code)
        except KeyboardInterrupt as interrupt:
            fail(
                "interrupted; run the same command again to go on from here", 143 if isinstance(interrupt, _Terminated) else 130
            )


def _what_to_install(error: ModuleNotFoundError) -> str:
    """In words, which extra has what a command could not import; an error of any other kind is raised again."""
    from featurestore.software import extra_that_brings, install_command

    extra = extra_that_brings(error.name or "")
    if extra is None:
        raise error
    package = (error.name or "").partition(".")[0]
    return f"this command needs {package}, which is not installed; {install_command(extra)}"


class _Terminated(KeyboardInterrupt):
    """SIGTERM: like Ctrl-C, but for the exit code."""


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command in order, with all that it has started: by itself, Python would just be gone."""

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # no place for handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def fail(message: str, exit_code: int) -> NoReturn:
    """Print one line on stderr and leave."""
    click.echo(f"error: {message}", err=True)
    sys.exit(exit_code)


class Report(Protocol):
    """What most commands print."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for machines."""

    def lines(self) -> Iterable[str]:
        """For people."""


def emit(result: object, as_json: bool, lines: Iterable[str]) -> None:
    """Print a result that is no report: as one JSON object, or as lines."""
    click.echo(json.dumps(result, allow_nan=False) if as_json else "\n".join(lines))


def emit_report(report: Report, as_json: bool) -> None:
    """Print a report: as one JSON object, or its lines."""
    click.echo(json.dumps(report.to_json(), allow_nan=False) if as_json else "\n".join(report.lines()))


def share_cores() -> None:
    """Let torch's idle threads sleep instead of spinning; to be called before torch is imported.

    The threads of the stream need the cores: beside other work, training on two cores takes a sixth of the time (docs/log.md).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class Option(click.Option):
    """An option that `--help` shows under a heading; see `Sections`."""

    def __init__(self, *args: Any, heading: str = OUTPUT, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.heading = heading


class Sections(click.Command):
    """A command whose `--help` shows its options under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading; `--help`, which has none, is in the last one."""
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in HEADINGS}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                sections[getattr(parameter, "heading", OUTPUT)].append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def option(*names: str, heading: str, **settings: Any) -> Callable[[Any], Any]:
    """A decorator like `click.option`, with a heading."""
    decorator: Callable[[Any], Any] = click.option(*names, cls=settings.pop("cls", Option), heading=heading, **settings)
    return decorator


def split_option(default: str) -> Callable[[Any], Any]:
    """`--split` of commands that predict the rows of one split."""
    return option(
        "--split",
        heading=DATA,
        type=click.Choice(["train", "val", "test"]),
        default=default,
        show_default=True,
        help="Split whose rows are predicted.",
    )


def file_option(name: str, text: str) -> Callable[[Any], Any]:
    """An option that names a file to write."""
    return option(name, heading=OUTPUT, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=text)


class Place(Option):
    """`--raw`, `--store` or `--models`, which also reads HEIMDALL_RAW, …: what `services up` prints, for all commands alike.

    A variable of the command's own (HEIMDALL_BUILD_FEATURES_RAW) counts more.
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        own = super().resolve_envvar_value(ctx)
        return own or os.environ.get(f"HEIMDALL_{str(self.name).upper()}") or None


# Options that several commands have.
CATALOG = option(
    "--catalog",
    heading=DATA,
    default="",
    metavar="URL",
    help="Address of the catalog, as postgresql://USER@HOST/DATABASE. What it leaves out comes from PGHOST, PGUSER, ...",
)
RAW = option(
    "--raw",
    heading=DATA,
    cls=Place,
    required=True,
    metavar="URL",
    help="Where captures are: s3://BUCKET/PREFIX, file:///DIR or a directory.",
)
RAW_TO = option(
    "--raw",
    heading=DATA,
    cls=Place,
    required=True,
    metavar="URL",
    help="Where captures go: s3://BUCKET/PREFIX, file:///DIR or a directory.",
)
STORE = option(
    "--store",
    heading=DATA,
    cls=Place,
    required=True,
    metavar="URL",
    help="Where features are: s3://BUCKET/PREFIX, file:///DIR or a directory.",
)
QUERY_FILE = option(
    "--query-file",
    heading=DATA,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the SQL for a catalog of another schema. It must yield the columns of featurestore/schema.sql.",
)
LIMIT = option("--limit", heading=DATA, type=click.IntRange(min=1), help="Take only this many captures, the first by id.")
RECEIVERS = option(
    "--receivers",
    heading=DATA,
    metavar="CSV",
    help="File (or s3://...) that says where receivers stand: websdr_id, latitude, longitude, name. It goes before what the "
    "feature set says.",
)
MAX_REJECTED = option(
    "--max-rejected-fraction",
    heading=OUTPUT,
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Publish nothing, and exit with 3, when a larger share of the captures is rejected.",
)
DRY_RUN = option("--dry-run", heading=OUTPUT, is_flag=True, help="Print what would be done, and write nothing.")
WORKERS = option(
    "--workers",
    heading=WORKERS_HEADING,
    type=click.IntRange(min=0),
    help="Number of worker processes; 0 works in this process.  [default: by the amount of work]",
)
SCHEDULER = option(
    "--scheduler",
    heading=WORKERS_HEADING,
    envvar="DASK_SCHEDULER_ADDRESS",
    metavar="ADDR",
    help="Address of a Dask scheduler to use, as tcp://HOST:8786.",
)
JSON = option("--json", "as_json", heading=OUTPUT, is_flag=True, help="Print the result as one JSON object.")
QUIET = option("--quiet", heading=OUTPUT, is_flag=True, help="Show no progress on stderr.")


def reported(run: Callable[..., Report | None]) -> Callable[..., None]:
    """Give a command `--json` and `--quiet`, and print the report that it returns.

    Args:
        run: the command. Its first argument is told how far it is (a `Progress`), the others are its own options. It may return
            nothing, and then nothing is printed.
    """

    @wraps(run)
    def command(*, as_json: bool, quiet: bool, **options: Any) -> None:
        share_cores()
        from featurestore.progress import on_stderr

        with on_stderr(quiet) as progress:
            report = run(progress, **options)
        if report is not None:
            emit_report(report, as_json)

    with_options: Callable[..., None] = JSON(QUIET(command))
    return with_options
