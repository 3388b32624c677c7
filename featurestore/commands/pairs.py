"""The command `build-pairs`."""

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
from featurestore.option import DATA, OUTPUT
from featurestore.pairs.spec import PairSpec
from featurestore.tensor.spec import SplitSpec

if TYPE_CHECKING:
    from featurestore.progress import Progress

LAG_OF_REGION = "what the catalog's receivers and clocks want, rounded up to 50; 1000 where their places are unknown"


@click.command("build-pairs", cls=Sections)
@CATALOG
@RAW
@option(
    "--store",
    heading=DATA,
    cls=Place,
    required=True,
    metavar="URL",
    help="Where pairs go, below pairs/: the store of build-features.",
)
@QUERY_FILE
@LIMIT
@options_of(PairSpec, SplitSpec, unset={"max_lag_us": LAG_OF_REGION})
@MAX_REJECTED
@option("--tag", heading=OUTPUT, metavar="NAME", help="Name that stands for the pair set from now on.")
@DRY_RUN
@WORKERS
@SCHEDULER
@reported
def build_pairs(
    progress: Progress,
    *,
    catalog: str,
    raw: str,
    store: str,
    query_file: Path | None,
    dry_run: bool,
    **options: Any,
) -> Any:
    """Correlate every two receivers of each session whose captures have start times, and publish a pair set.

    A pair's feature is its correlation over lags, from which a place follows (docs/time.md). Sessions correlated before are
    reused. Run again, or after an interruption, it goes on from what is there; the same inputs give the same version.

    \b
    Examples:
      heimdall build-pairs --raw ./raw --store ./features --catalog postgresql://me@localhost/radio
      heimdall build-pairs --raw s3://captures --store s3://features --max-lag-us 2000 --n-lags 513
      heimdall build-pairs --raw s3://captures --store s3://features --dry-run
    """
    from featurestore.objects.objects import Location
    from featurestore.pairs.build import PairBuildRequest, preview_pairs
    from featurestore.pairs.build import build_pairs as build
    from featurestore.source.catalog import read_query

    lag_of_region = options["max_lag_us"] is None
    spec, split = record_of(PairSpec, options), record_of(SplitSpec, options)
    query = None if query_file is None else read_query(query_file)
    options["lag_of_region"] = lag_of_region
    request = PairBuildRequest(catalog, Location.parse(raw), Location.parse(store), spec, split, query, **options)
    return preview_pairs(request, progress) if dry_run else build(request, progress)
