"""The commands that keep feature sets sound and a store small: `features verify`, `repair`, `compact` and `gc`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from featurestore.commands.shell import CATALOG, JSON, QUIET, SCHEDULER, STORE, WORKERS, Place, emit, emit_report, reported

if TYPE_CHECKING:
    from featurestore.progress import Progress


OF_PAIRS = click.option("--pairs", is_flag=True, help="Of pair sets, which build-pairs makes, instead of feature sets.")


@click.command("verify")
@click.argument("version", default="latest")
@STORE
@OF_PAIRS
@click.option("--deep", is_flag=True, help="Also compute a sample of rows from IQ again, and compare; needs --raw.")
@click.option(
    "--raw", cls=Place, metavar="URL", help="Where captures are, for --deep: s3://BUCKET/PREFIX, file:///DIR or a directory."
)
@CATALOG
@click.option("--rows", default=64, show_default=True, type=click.IntRange(min=1), help="Rows that --deep computes again.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Decides which rows.")
@JSON
@QUIET
def verify_features(
    *,
    version: str,
    store: str,
    pairs: bool,
    deep: bool,
    raw: str | None,
    catalog: str,
    rows: int,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check every object of a feature set: there, whole, and unchanged. VERSION may be a tag; default: the latest.

    Reads manifest, spec, basis, labels, and each segment with all its tensors; changes nothing. Lists what is missing,
    truncated or damaged, with the captures it held, and exits with 1 if there is any. 'features repair' is the next step.

    With --deep, a sample of rows, spread over the set, is computed from the recordings again. Rows whose recording is
    gone or was replaced since are named and left out. Pairs, and windows aligned by session, come from all recordings of
    a session and their times; --catalog is asked for those.

    \b
    Examples:
      heimdall features verify --store ./features
      heimdall features verify --store ./features --deep --raw ./raw --rows 200
      heimdall features verify baseline --store s3://features --json
      heimdall features verify --store ./features --pairs
      heimdall features verify --store ./features --pairs --deep --raw ./raw --catalog postgresql://me@localhost/radio
    """
    from featurestore.care.verify.deep import DeepCheck
    from featurestore.care.verify.verify import verify
    from featurestore.objects.objects import Location
    from featurestore.pairs.care.verify import verify_pairs
    from featurestore.progress import on_stderr

    if deep and raw is None:
        raise click.UsageError("--deep computes rows from their recordings again; say where those are with --raw")
    check = DeepCheck(Location.parse(raw), rows, seed, catalog) if deep and raw is not None else None
    with on_stderr(quiet) as progress:
        verification = verify_pairs(store, version, progress, check) if pairs else verify(store, version, progress, check)
    emit_report(verification, as_json)
    verification.require_sound()


@click.command("repair")
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


@click.command("compact")
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


@click.command("gc")
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
