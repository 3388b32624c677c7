"""The commands `features …`, which look after feature sets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.commands.shell import (
    CATALOG,
    JSON,
    QUIET,
    RECEIVERS,
    SCHEDULER,
    STORE,
    WORKERS,
    Place,
    emit,
    emit_report,
    reported,
)

if TYPE_CHECKING:
    from featurestore.progress import Progress


@click.group("features")
def features_group() -> None:
    """Look after feature sets."""


OF_PAIRS = click.option("--pairs", is_flag=True, help="Of pair sets, which build-pairs makes, instead of feature sets.")


@features_group.command("list")
@STORE
@OF_PAIRS
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_features(store: str, pairs: bool, as_json: bool) -> None:
    """List feature sets, newest first.

    \b
    Examples:
      heimdall features list --store ./features
      heimdall features list --store s3://features --json
      heimdall features list --store ./features --pairs
    """
    from featurestore.look.overview import list_lines, summarize

    found = summarize(f"{store}/pairs" if pairs else store)
    emit(found, as_json, list_lines(found))


@features_group.command("show")
@click.argument("version", default="latest")
@STORE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with mean and std in full.")
@QUIET
def show_features(version: str, store: str, as_json: bool, quiet: bool) -> None:
    """Show one feature set: spec, counts, splits, rejections and statistics. VERSION may be a tag; default: the latest.

    Warns of what may be wrong with its data: equal captures in two splits, receivers or sessions that dominate, splits that
    are too small, bands that hardly vary, labels that are missing. docs/audit.md says what to do about each.

    \b
    Examples:
      heimdall features show --store ./features
      heimdall features show baseline --store s3://features --json
    """
    from featurestore.look.overview import show, show_lines
    from featurestore.progress import on_stderr

    with on_stderr(quiet) as progress:
        found = show(store, version, progress)
    emit(found, as_json, show_lines(found))


@features_group.command("report")
@click.argument("version", default="latest")
@STORE
@click.option(
    "--html",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    default="features.html",
    show_default=True,
    help="The page; its directory is created when absent.",
)
@click.option(
    "--out",
    "pictures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also save every picture of the page there, as SVG; the directory is created when absent.",
)
@RECEIVERS
@QUIET
def report_features(version: str, store: str, path: Path, pictures: Path | None, receivers: str | None, quiet: bool) -> None:
    """Write a feature set's report as one HTML page: spec, counts, map, tensors, statistics, receivers, rejections, builds.

    The page needs no network, and prints. Pictures and distributions are of a sample when the set is large: at most eight
    chunks are read. VERSION may be a tag; default: the latest.

    \b
    Examples:
      heimdall features report --store ./features --html features.html
      heimdall features report baseline --store s3://features --html reports/baseline.html --receivers receivers.csv
      heimdall features report --store ./features --html features.html --out pictures
    """
    from featurestore.look.report.set_report import ReportRequest, write_set_report
    from featurestore.progress import on_stderr

    with on_stderr(quiet) as progress:
        written = write_set_report(ReportRequest(store, version, path, receivers, pictures), progress)
    click.echo(written[0])
    if pictures is not None:
        click.echo(f"{len(written) - 1} pictures in {pictures}")


@features_group.command("verify")
@click.argument("version", default="latest")
@STORE
@OF_PAIRS
@click.option("--deep", is_flag=True, help="Also compute a sample of rows from IQ again, and compare; needs --raw.")
@click.option(
    "--raw", cls=Place, metavar="URL", help="Where captures are, for --deep: s3://BUCKET/PREFIX, file:///DIR or a directory."
)
@click.option("--rows", default=64, show_default=True, type=click.IntRange(min=1), help="Rows that --deep computes again.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Decides which rows.")
@JSON
@QUIET
def verify_features(
    version: str, store: str, pairs: bool, deep: bool, raw: str | None, rows: int, seed: int, as_json: bool, quiet: bool
) -> None:
    """Check every object of a feature set: there, whole, and unchanged. VERSION may be a tag; default: the latest.

    Reads manifest, spec, basis, labels, and each segment with all its tensors; changes nothing. Lists what is missing,
    truncated or damaged, with the captures it held, and exits with 1 if there is any. 'features repair' is the next step.

    With --deep, a sample of rows, spread over the set, is computed from the recordings again. Rows whose recording is
    gone or was replaced since are named and left out.

    \b
    Examples:
      heimdall features verify --store ./features
      heimdall features verify --store ./features --deep --raw ./raw --rows 200
      heimdall features verify baseline --store s3://features --json
      heimdall features verify --store ./features --pairs
    """
    from featurestore.care.verify.deep import DeepCheck
    from featurestore.care.verify.verify import verify
    from featurestore.objects.objects import Location
    from featurestore.pairs.verify import verify_pairs
    from featurestore.progress import on_stderr

    if deep and pairs:
        raise click.UsageError("--deep computes tensors again, and a pair set has none; leave out --deep or --pairs")
    if deep and raw is None:
        raise click.UsageError("--deep computes rows from their recordings again; say where those are with --raw")
    check = DeepCheck(Location.parse(raw), rows, seed) if deep and raw is not None else None
    with on_stderr(quiet) as progress:
        found = verify_pairs(store, version, progress) if pairs else verify(store, version, progress, check)
    emit_report(found, as_json)
    found.require_sound()


@features_group.command("repair")
@click.argument("version", default="latest")
@STORE
@click.option("--raw", cls=Place, metavar="URL", help="Where captures are; log-mel can only be computed from them.")
@CATALOG
@click.option("--dry-run", is_flag=True, help="Do all the work, but write nothing to the store.")
@JSON
@QUIET
def repair_features(version: str, store: str, raw: str | None, catalog: str, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Write again what is damaged of a feature set, and nothing else. VERSION may be a tag; default: the latest.

    Features come from log-mel, log-mel from the recordings in --raw, labels from --catalog, the rest from what is left.
    What was written is checked again. Says of each damaged object how it was repaired, or why it can't be and what to do
    next; exits with 1 when something stays damaged. docs/repair.md says what can be brought back.

    \b
    Examples:
      heimdall features repair --store ./features --raw ./raw --catalog postgresql://me@localhost/radio
      heimdall features repair baseline --store s3://features --raw s3://captures --dry-run
    """
    from featurestore.care.repair.repair import RepairRequest, repair
    from featurestore.objects.objects import Location
    from featurestore.progress import on_stderr

    request = RepairRequest(
        Location.parse(store), version, None if raw is None else Location.parse(raw), catalog, dry_run=dry_run
    )
    with on_stderr(quiet) as progress:
        report = repair(request, progress)
    emit_report(report, as_json)
    report.require_sound()


@features_group.command("trace")
@click.argument("capture_id", type=int)
@STORE
@reported
def trace_features(progress: Progress, capture_id: int, store: str) -> Any:
    """Find a capture, by its id in the catalog: in which sets, rows, windows and splits it is, or why it was rejected.

    \b
    Examples:
      heimdall features trace 4711 --store ./features
      heimdall features trace 4711 --store s3://features --json
    """
    from featurestore.look.trace import trace

    return trace(store, capture_id, progress)


@features_group.command("diff")
@click.argument("a")
@click.argument("b", default="latest")
@STORE
@reported
def diff_features(progress: Progress, a: str, b: str, store: str) -> Any:
    """Compare feature set A with B: parameters, captures, labels, splits, counts, statistics. Each may be a tag.

    \b
    Examples:
      heimdall features diff baseline latest --store ./features
      heimdall features diff baseline candidate --store s3://features --json
    """
    from featurestore.look.diff import difference

    return difference(store, a, b, progress)


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
    from featurestore import open_set
    from featurestore.store import sets
    from featurestore.store.presence import require_kept

    key = f"tags/{sets.check_tag(name)}.json"
    opened = open_set(store, version)
    before = sets.read_pointer(opened.objects, key)
    sets.point(opened.objects, opened.version, name)
    require_kept(opened.objects, opened.version)
    click.echo(f"{name} is {opened.version}" + (f"; it was {before}" if before not in (None, opened.version) else ""))


@features_group.command("compact")
@click.argument("version", default="latest")
@STORE
@click.option("--dry-run", is_flag=True, help="Print what would be done; write nothing.")
@WORKERS
@SCHEDULER
@reported
def compact_features(progress: Progress, **options: Any) -> Any:
    """Merge the segments of a feature set into one. VERSION may be a tag; default: the latest.

    Publishes a set of the same rows and labels; latest moves to it if it named the old one, tags stay, and builds go on
    from it. The old set keeps its segments until `features gc` removes it (docs/housekeeping.md).

    \b
    Examples:
      heimdall features compact --store ./features --dry-run
      heimdall features compact baseline --store s3://features --workers 4
    """
    from featurestore.care.compact.compact import CompactRequest, compact

    return compact(CompactRequest(**options), progress)


@features_group.command("gc")
@STORE
@click.option(
    "--keep", type=click.IntRange(min=1), default=5, show_default=True, help="Keep so many of the newest feature sets."
)
@click.option(
    "--min-age",
    default="1d",
    show_default=True,
    help="Keep what is younger, as 90s, 30m, 12h or 2d; 0 spares nothing for its age.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be removed; write nothing.")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@JSON
@QUIET
def gc_features(*, store: str, keep: int, min_age: str, dry_run: bool, yes: bool, as_json: bool, quiet: bool) -> None:
    """Remove old feature sets, and all that only they used: segments, bases, what abandoned builds left.

    Never removes the newest sets, the latest, one with a tag, or anything that one of these uses. Ends without removing
    anything when a manifest is damaged. Builds can go on meanwhile (docs/housekeeping.md).

    \b
    Examples:
      heimdall features gc --store ./features --dry-run
      heimdall features gc --store s3://features --keep 3 --min-age 12h --yes
    """
    from featurestore.care.gc.garbage import Policy, parse_age
    from featurestore.care.gc.gc import preview, survey_with_pairs, sweep
    from featurestore.errors import UsageError
    from featurestore.progress import on_stderr

    policy = Policy(keep, parse_age(min_age))
    if not (yes or dry_run or sys.stdin.isatty()):
        raise UsageError("features gc removes data, and there is no terminal to ask on; add --yes, or look with --dry-run")
    surveys = survey_with_pairs(store, policy)
    reports = [preview(*each) for each in surveys]
    if any(garbage.items for _, garbage in surveys) and not dry_run:
        if not yes:
            click.echo("\n".join(line for report in reports for line in report.lines()), err=True)
            click.confirm("Remove this?", abort=True, err=True)
        with on_stderr(quiet) as progress:
            reports = [sweep(*each, progress) for each in surveys]
    found = {**reports[0].to_json(), **({"pairs": reports[1].to_json()} if len(reports) > 1 else {})}
    emit(found, as_json, (line for report in reports for line in report.lines()))
