"""How far off `heimdall locate` is on a real session, over spans and bands of its recordings.

python bench/locate_spread.py RECEIVERS.csv LATITUDE LONGITUDE RECORDING…

It is no tuning: the spread says what a user may expect of other minutes of the same transmitter and receivers.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from featurestore.delay.heard import Heard
from featurestore.locate import locate as module
from featurestore.locate.locate import Located, LocateOptions
from featurestore.locate.recordings import Session, read_positions, read_session
from featurestore.place.geodesic import distance_m
from featurestore.progress import Silent

BANDS_HZ = (None, (-1000.0, 1000.0), (-250.0, 250.0), (-100.0, 100.0), (20.0, 500.0), (-500.0, -20.0))


def cut(heard: Heard, first_ns: int, stop_ns: int) -> Heard:
    """What was heard between two instants."""
    first = max(0, round((first_ns - heard.start_time_ns) / 1e9 * heard.rate_hz))
    stop = round((stop_ns - heard.start_time_ns) / 1e9 * heard.rate_hz)
    start_ns = heard.start_time_ns + round(first / heard.rate_hz * 1e9)
    return replace(heard, samples=heard.samples[first:stop], start_time_ns=start_ns)


def answer(session: Session, options: LocateOptions) -> Located:
    """What the command does after reading."""
    return module.answer(session, options, Silent())


def main() -> None:
    """One line for each span and band, then the spread."""
    if sys.argv[1:] == ["--smallest"]:
        print("needs recordings of a session, which are not part of the project")
        sys.exit(77)
    receivers, files = Path(sys.argv[1]), [Path(name) for name in sys.argv[4:]]
    truth = np.array([float(sys.argv[2]), float(sys.argv[3])])
    session = read_session(files, read_positions(receivers, files), Silent())
    start = max(each.heard.start_time_ns for each in session.recordings)
    stop = min(each.heard.stop_time_ns for each in session.recordings)
    spans = [("all", start, stop)]
    for count in (3, 10):
        step = (stop - start) // count
        spans += [(f"{k + 1}/{count}", start + k * step, start + (k + 1) * step) for k in range(count)]
    for band in BANDS_HZ:
        found = []
        for name, first, last in spans if band is None else spans[:4]:
            part = Session([replace(each, heard=cut(each.heard, first, last)) for each in session.recordings])
            located = answer(part, LocateOptions(band_hz=band))
            off_km = float(distance_m(located.posterior.point, truth)) / 1e3
            level = located.posterior.level_at(truth)
            found.append((off_km, level))
            area = located.posterior.area_km2(0.865)
            print(
                f"band {band or 'found'}, span {name}: {off_km:.2f} km off, level {level:.3f}, area {area:.0f} km²", flush=True
            )
        off = np.array(found)
        inside = int((off[:, 1] <= 0.865).sum())
        print(
            f"band {band or 'found'}: median {np.median(off[:, 0]):.2f} km, most {off[:, 0].max():.2f}, "
            f"{inside} of {len(off)} in the 86.5% region",
            flush=True,
        )


if __name__ == "__main__":
    main()
