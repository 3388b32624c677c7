"""The command `build-pairs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.commands.build import SPLIT_OPTIONS
from featurestore.commands.shell import CATALOG, SCHEDULER, WORKERS, Place, reported

if TYPE_CHECKING:
    from featurestore.progress import Progress


@click.command("build-pairs")
@CATALOG
@click.option(
    "--raw", cls=Place, required=True, metavar="URL", help="Where captures are: s3://BUCKET/PREFIX, file:///DIR or a directory."
)
@click.option(
    "--store", cls=Place, required=True, metavar="URL", help="Where pairs go, below pairs/: the store of build-features."
)
@click.option(
    "--query-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="SQL for a catalog with another schema; it yields the columns of featurestore/schema.sql, times among them.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Take only the first captures by id.")
@click.option(
    "--max-lag-us",
    default=1000.0,
    show_default=True,
    help="Largest delay between two receivers: the longest way between them at 300 m/µs, and what clocks may be off.",
)
@click.option("--n-lags", default=257, show_default=True, help="Lags from minus to plus that; an odd number.")
@click.option("--pair-seconds", default=30.0, show_default=True, help="Use at most so much of what receivers heard together.")
@click.option("--band-low-hz", type=float, help="Lowest frequency from the captures' centre.  [default: no bound]")
@click.option("--band-high-hz", type=float, help="Highest.  [default: no bound]")
@SPLIT_OPTIONS
@click.option(
    "--max-rejected-fraction",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Publish nothing, and exit with 3, when more of the captures with a time are rejected.",
)
@click.option("--tag", metavar="NAME", help="Give the pair set a name.")
@click.option("--dry-run", is_flag=True, help="Print what would be done; write nothing.")
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
    split_seed: int,
    split_by: str,
    fold: str | None,
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
    from featurestore.pairs.spec import PairSpec
    from featurestore.source.catalog import read_query
    from featurestore.tensor.spec import SplitSpec

    names = ("max_lag_us", "n_lags", "pair_seconds", "band_low_hz", "band_high_hz")
    spec = PairSpec(**{name: options.pop(name) for name in names})
    arcs = {name: options.pop(name) for name in ("val_fraction", "test_fraction", "region_degrees")}
    split = SplitSpec(**arcs, seed=split_seed, by=split_by, fold=None if fold is None else SplitSpec.parse_fold(fold))
    query = None if query_file is None else read_query(query_file)
    request = PairBuildRequest(catalog, Location.parse(raw), Location.parse(store), spec, split, query, **options)
    return preview_pairs(request, progress) if dry_run else build(request, progress)
