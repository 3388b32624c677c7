"""Open the latest feature set of a store in files, with nothing of heimdall's: python open_files.py STORE."""

import json
import sys
from pathlib import Path

import xarray
import zarr

store = Path(sys.argv[1])
version = json.loads((store / "latest.json").read_text())["version"]

# plain zarr: a set is labels, aligned with the rows of its segments one after the other
labels = zarr.open_group(store / "sets" / version, mode="r")
manifest = labels.attrs
segments = store / "specs" / manifest["spec"] / "segments"
for ref in manifest["segments"]:
    features = zarr.open_array(segments / ref["segment"] / f"features-{manifest['basis']}", mode="r")
    print(ref["segment"], features.shape, features.dtype, features.metadata.dimension_names)
print("positions of the first rows:", labels["position"][:2].tolist())

# xarray: one segment, lazily
print(xarray.open_zarr(segments / manifest["segments"][0]["segment"])["logmel"])
