"""`locate`: recordings of one session → where the transmitter is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.commands.shell import reported

if TYPE_CHECKING:
    from featurestore.progress import Progress


@click.command()
@click.argument("recordings", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--receivers",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV: file (its name, without folders), websdr_id, latitude, longitude, and, if it likes, time_sigma_s.",
)
@click.option(
    "--html", type=click.Path(path_type=Path), help="Write the answer as one HTML page, too: map, pairs, correlations."
)
@click.option(
    "--path-sigma-us",
    default=10.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="How far delays of paths are off that of light, one standard deviation in µs: 10 on long and medium wave by "
    "day, 0.1 in sight of VHF, 100 by sky wave (docs/time.md).",
)
@click.option(
    "--band-hz",
    nargs=2,
    type=float,
    metavar="LOW HIGH",
    help="Correlate these frequencies only, counted from the recordings' centre.  [default: where a signal is]",
)
@click.option("--max-seconds", default=60.0, show_default=True, help="Of common time to use.")
@click.option(
    "--margin-km", type=float, help="How far beyond the receivers to search.  [default: as far as they are apart, at least 50]"
)
@reported
def locate(
    progress: Progress,
    *,
    recordings: tuple[Path, ...],
    receivers: Path,
    html: Path | None,
    path_sigma_us: float,
    band_hz: tuple[float, float] | None,
    max_seconds: float,
    margin_km: float | None,
) -> Any:
    """Locate a transmitter by when receivers hear it: from RECORDINGS of one transmission, one per receiver.

    Needs no training, no database and no store, but times: KiwiSDR WAVs with GPS stamps, or SigMF with core:datetime and
    a time_sigma_s. Network time is of no use: 1 ms is 300 km. A recording without GPS lock is skipped, and named.
    Three receivers at different places know a place, two a hyperbola. docs/time.md has the arithmetic.

    \b
    Examples:
      heimdall locate a.wav b.wav c.wav --receivers receivers.csv
      heimdall locate session/*.wav --receivers receivers.csv --html where.html
      heimdall locate session/*.wav --receivers receivers.csv --json --band-hz -1000 1000 --path-sigma-us 100
    """
    from featurestore.locate.locate import LocateOptions
    from featurestore.locate.locate import locate as find
    from featurestore.page.page import require_place

    options = LocateOptions(path_sigma_us * 1e-6, max_seconds, band_hz or None, margin_km)
    if html is not None:
        from featurestore.page.charts import require_matplotlib

        require_matplotlib()
        require_place(html)
    located = find(recordings, receivers, options, progress)
    if html is not None:
        from featurestore.locate.page import save_page

        progress.start("page", 1, "pages")
        save_page(located, html)
        progress.advance(1)
    return located
