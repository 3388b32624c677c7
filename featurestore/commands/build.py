"""The command `build-features`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.commands.shell import CATALOG, SCHEDULER, WORKERS, Place, reported

if TYPE_CHECKING:
    from featurestore.progress import Progress

_SPLIT = (
    click.option("--val-fraction", default=0.1, show_default=True, help="Share of sessions for validation."),
    click.option("--test-fraction", default=0.1, show_default=True, help="Share of sessions for testing."),
    click.option("--split-seed", default=42, show_default=True, help="Turns the circle on which sessions lie."),
    click.option(
        "--split-by",
        type=click.Choice(["session", "region"]),
        default="session",
        show_default=True,
        help="What is never torn apart: a session, or all sessions of a geographic grid cell.",
    ),
    click.option("--region-degrees", type=float, help="Size of a grid cell, with --split-by region.  [default: 0.1]"),
    click.option(
        "--fold", metavar="I/K", help="Cross-validation: validate on [I/K, (I+1)/K) of the circle, train on the rest."
    ),
)


def SPLIT_OPTIONS(command: Callable[..., None]) -> Callable[..., None]:  # noqa: N802 - used as the other options are
    """The options that decide which session is train, validation or test."""
    for option in reversed(_SPLIT):
        command = option(command)
    return command


@click.command("build-features")
@CATALOG
@click.option(
    "--raw", cls=Place, required=True, metavar="URL", help="Where captures are: s3://BUCKET/PREFIX, file:///DIR or a directory."
)
@click.option(
    "--store",
    cls=Place,
    required=True,
    metavar="URL",
    help="Where features go: s3://BUCKET/PREFIX, file:///DIR or a directory.",
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
@click.option(
    "--align",
    type=click.Choice(["none", "session"]),
    default="none",
    show_default=True,
    help="Take windows from all of a capture, or from the time that the session's captures with known starts share.",
)
@click.option("--n-mfcc", default=0, show_default=True, help="Store so many cepstral coefficients, not mel bands; 0: off.")
@SPLIT_OPTIONS
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
@click.option(
    "--receivers",
    metavar="CSV",
    help="Where receivers stand, before what the catalog's table says: websdr_id, latitude, longitude, name; a file or s3://…",
)
@click.option("--tag", metavar="NAME", help="Give the feature set a name.")
@click.option("--dry-run", is_flag=True, help="Print what would be done; write nothing.")
@WORKERS
@SCHEDULER
@reported
def build_features(
    progress: Progress,
    *,
    catalog: str,
    raw: str,
    store: str,
    query_file: Path | None,
    split_seed: int,
    split_by: str,
    fold: str | None,
    dry_run: bool,
    **options: Any,
) -> Any:
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
    from featurestore.build.build import BuildRequest, build
    from featurestore.build.preview import preview
    from featurestore.objects.objects import Location
    from featurestore.source.catalog import read_query
    from featurestore.tensor.spec import FeatureSpec, SplitSpec

    spec = FeatureSpec(**{field.name: options.pop(field.name) for field in fields(FeatureSpec)})
    arcs = {name: options.pop(name) for name in ("val_fraction", "test_fraction", "region_degrees")}
    split = SplitSpec(**arcs, seed=split_seed, by=split_by, fold=None if fold is None else SplitSpec.parse_fold(fold))
    query = None if query_file is None else read_query(query_file)
    request = BuildRequest(catalog, Location.parse(raw), Location.parse(store), spec, split, query, **options)
    return preview(request, progress) if dry_run else build(request, progress)
