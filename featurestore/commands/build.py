"""The command `build-features`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.commands.record_options import options_of, record_of
from featurestore.commands.shell import (
    CATALOG,
    DRY_RUN,
    LIMIT,
    MAX_REJECTED,
    QUERY_FILE,
    RAW,
    SCHEDULER,
    WORKERS,
    Place,
    Sections,
    option,
    reported,
)
from featurestore.option import DATA, OUTPUT, TENSORS
from featurestore.tensor.spec import FeatureSpec, SplitSpec

if TYPE_CHECKING:
    from featurestore.progress import Progress


@click.command("build-features", cls=Sections)
@CATALOG
@RAW
@option(
    "--store",
    heading=DATA,
    cls=Place,
    required=True,
    metavar="URL",
    help="Where features go: s3://BUCKET/PREFIX, file:///DIR or a directory.",
)
@QUERY_FILE
@LIMIT
@option(
    "--receivers",
    heading=DATA,
    metavar="CSV",
    help="File (or s3://...) that says where receivers stand: websdr_id, latitude, longitude, name. It goes before what the "
    "catalog's table says.",
)
@options_of(FeatureSpec, SplitSpec)
@option(
    "--refit",
    heading=TENSORS,
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="When to fit mean and standard deviation anew. auto: when the train rows have more than doubled.",
)
@MAX_REJECTED
@option("--tag", heading=OUTPUT, metavar="NAME", help="Name that stands for the feature set from now on.")
@DRY_RUN
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
    from featurestore.build.dry_run import preview
    from featurestore.objects.objects import Location
    from featurestore.source.catalog import read_query

    spec, split = record_of(FeatureSpec, options), record_of(SplitSpec, options)
    query = None if query_file is None else read_query(query_file)
    request = BuildRequest(catalog, Location.parse(raw), Location.parse(store), spec, split, query, **options)
    return preview(request, progress) if dry_run else build(request, progress)
