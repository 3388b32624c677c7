"""The commands `releases …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from exporter.commands.places import MODEL_NAME, MODELS, NO_REGISTRY, REGISTRY, open_registry
from featurestore.commands.shell import JSON, STORE, Sections, emit, emit_report, file_option, option, reported, split_option
from featurestore.option import DATA, OUTPUT

if TYPE_CHECKING:
    from featurestore.progress import Progress


@click.group("releases")
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
    from exporter.release.overview import list_lines, summarize

    overview = summarize(models)
    emit(overview, as_json, list_lines(overview))


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
    from exporter.release.overview import show, show_lines

    overview = show(models, release)
    emit(overview, as_json, show_lines(overview))


@releases_group.command("compare", cls=Sections)
@click.argument("a")
@click.argument("b")
@MODELS
@STORE
@option(
    "--features", "version", heading=DATA, help="Feature set: a version or a tag.  [default: the one that A was trained on]"
)
@split_option("test")
@option(
    "--confidence",
    heading=OUTPUT,
    default=0.95,
    show_default=True,
    help="Confidence of the interval of the difference, from 0 to 1.",
)
@option("--draws", heading=OUTPUT, default=5000, show_default=True, help="Number of draws of the bootstrap over sessions.")
@option("--seed", heading=OUTPUT, default=0, show_default=True, help="Number that decides the draws of the bootstrap.")
@file_option("--html", "File for a report as one HTML page: both side by side, errors, calibration, map, where they differ.")
@reported
def compare_releases(progress: Progress, **options: Any) -> Any:
    """Run releases A and B over the same rows, offline: errors, calibration, latency, size, and which one is better.

    The verdict is about the mean error, row by row; it is that these rows cannot tell when the confidence interval of the
    difference holds 0. A and B are numbers, or latest.

    \b
    Examples:
      heimdall releases compare latest 1.2.0 --models s3://models --store s3://features
      heimdall releases compare 1.1.0 1.2.0 --models ./models --store ./features --split val --json
      heimdall releases compare 1.1.0 latest --models ./models --store ./features --html comparison.html
    """
    from exporter.release.compare import compare
    from exporter.release.paired import CompareRequest

    return compare(CompareRequest(**options), progress)


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
    from exporter.release.latest import promote, read_release

    candidate = read_release(models, release)
    moved = promote(candidate, open_registry(registry_uri, model_name, no_registry))
    emit_report(moved, as_json)


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
    from exporter.release.latest import rollback

    moved = rollback(models, open_registry(registry_uri, model_name, no_registry))
    emit_report(moved, as_json)
