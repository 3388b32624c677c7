"""The commands `features …`, which look after feature sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.commands.care import OF_PAIRS, compact_features, gc_features, repair_features, verify_features
from featurestore.commands.shell import QUIET, RECEIVERS, STORE, emit, reported

if TYPE_CHECKING:
    from featurestore.progress import Progress


@click.group("features")
def features_group() -> None:
    """Look after feature sets."""


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

    sets = summarize(f"{store}/pairs" if pairs else store)
    emit(sets, as_json, list_lines(sets))


@features_group.command("show")
@click.argument("version", default="latest")
@STORE
@OF_PAIRS
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with mean and std in full.")
@QUIET
def show_features(version: str, store: str, pairs: bool, as_json: bool, quiet: bool) -> None:
    """Show one feature set: spec, counts, splits, rejections and statistics. VERSION may be a tag; default: the latest.

    Warns of what may be wrong with its data: equal captures in two splits, receivers or sessions that dominate, splits that
    are too small, bands that hardly vary, labels that are missing. docs/audit.md says what to do about each. Of a pair set
    it shows peaks, sigmas of delays and clocks, and why pairs have no delay; it warns of nothing.

    \b
    Examples:
      heimdall features show --store ./features
      heimdall features show baseline --store s3://features --json
      heimdall features show --store ./features --pairs
    """
    from featurestore.look.overview import show, show_lines
    from featurestore.pairs.look import overview as pair_overview
    from featurestore.progress import on_stderr

    if pairs:
        of_pairs = pair_overview.show_pairs(store, version)
        emit(of_pairs, as_json, pair_overview.show_lines(of_pairs))
        return
    with on_stderr(quiet) as progress:
        overview = show(store, version, progress)
    emit(overview, as_json, show_lines(overview))


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
@OF_PAIRS
@QUIET
def report_features(
    *, version: str, store: str, path: Path, pictures: Path | None, receivers: str | None, pairs: bool, quiet: bool
) -> None:
    """Write a feature set's report as one HTML page: spec, counts, map, tensors, statistics, receivers, rejections, builds.

    The page needs no network, and prints. Pictures and distributions are of a sample when the set is large: at most eight
    chunks are read. VERSION may be a tag; default: the latest. A pair set's page has peaks, sigmas and some correlations.

    \b
    Examples:
      heimdall features report --store ./features --html features.html
      heimdall features report --store ./features --pairs --html pairs.html
      heimdall features report baseline --store s3://features --html reports/baseline.html --receivers receivers.csv
      heimdall features report --store ./features --html features.html --out pictures
    """
    from featurestore.look.report.set_report import ReportRequest, write_set_report
    from featurestore.pairs.look.report import write_pair_report
    from featurestore.progress import on_stderr

    if pairs and receivers is not None:
        raise click.UsageError("--receivers puts receivers on a map, and the report of a pair set has none; leave it out")
    request = ReportRequest(store, version, path, receivers, pictures)
    with on_stderr(quiet) as progress:
        written = write_pair_report(request) if pairs else write_set_report(request, progress)
    click.echo(written[0])
    if pictures is not None:
        click.echo(f"{len(written) - 1} pictures in {pictures}")


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
@OF_PAIRS
def tag_features(version: str, name: str, store: str, pairs: bool) -> None:
    """Let NAME stand for a feature set, wherever a version can be given. VERSION may be a tag, too; a tag in use moves.

    \b
    Examples:
      heimdall features tag latest baseline --store ./features
      heimdall features tag 6d0955736ce6 release-3 --store s3://features
    """
    from featurestore import open_set
    from featurestore.pairs.pair_set import open_pair_set
    from featurestore.store import sets
    from featurestore.store.presence import require_kept

    key = f"tags/{sets.check_tag(name)}.json"
    opened = open_pair_set(store, version) if pairs else open_set(store, version)
    before = sets.read_pointer(opened.objects, key)
    sets.point(opened.objects, opened.version, name)
    require_kept(opened.objects, opened.version)
    click.echo(f"{name} is {opened.version}" + (f"; it was {before}" if before not in (None, opened.version) else ""))


for command in (verify_features, repair_features, compact_features, gc_features):
    features_group.add_command(command)
