"""Fetch some captures into a directory, as sessions/ID/websdr_N.npy: python fetch_captures.py URL DIRECTORY."""

import sys
from itertools import islice
from pathlib import Path

from featurestore.objects import Location, open_objects

CAPTURES = 4

raw = open_objects(Location.parse(sys.argv[1]).url)
for info in islice(raw.walk("sessions"), CAPTURES):
    path = Path(sys.argv[2]) / info.key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw.get(info.key))
