"""One simulated session as SigMF recordings with times, as receivers would send them: python session_as_sigmf.py RAW DIRECTORY.

RAW is where `heimdall simulate --clock gps` wrote. Beside the recordings stands receivers.csv, for `heimdall locate`.
"""

import csv
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np

from featurestore.corpus.simulate.sites import RECEIVERS
from featurestore.source.snapshot import default_key

RATE_HZ = 48_000
GPS_SIGMA_S = 1e-7

raw, out = Path(sys.argv[1]), Path(sys.argv[2])
with (raw / "truth.csv").open(encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
session = [row for row in rows if row["session_id"] == rows[0]["session_id"]]
places = {each.websdr_id: each for each in RECEIVERS}

out.mkdir(parents=True, exist_ok=True)
with (out / "receivers.csv").open("w", encoding="utf-8", newline="") as file:
    table = csv.writer(file)
    table.writerow(["file", "websdr_id", "latitude", "longitude"])
    for row in session:
        number = int(row["websdr_id"])
        name = f"websdr_{number}"
        samples = np.load(raw / default_key(UUID(row["session_id"]).bytes, number)).astype(np.complex64)
        samples.tofile(out / f"{name}.sigmf-data")
        # What the receiver believes: the true start and the error of its clock.
        start_ns = int(row["start_time_ns"]) + round(float(row["time_error_s"]) * 1e9)
        second = datetime.fromtimestamp(start_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        capture = {"core:sample_start": 0, "core:frequency": float(row["frequency_mhz"]) * 1e6}
        capture |= {"core:datetime": f"{second}.{start_ns % 10**9:09d}Z", "heimdall:time_sigma_s": GPS_SIGMA_S}
        about = {"core:datatype": "cf32_le", "core:sample_rate": RATE_HZ, "core:version": "1.2.0"}
        meta = {"global": about, "captures": [capture], "annotations": []}
        (out / f"{name}.sigmf-meta").write_text(json.dumps(meta, indent=1))
        table.writerow([f"{name}.sigmf-meta", number, places[number].latitude, places[number].longitude])
print(f"the transmitter is at {float(session[0]['latitude']):.4f}, {float(session[0]['longitude']):.4f}")
