"""Open the latest feature set of a store in S3, with nothing of heimdall's: python open_s3.py s3://BUCKET/PREFIX.

The AWS_* variables say where S3 is.
"""

import json
import os
import sys

import xarray
import zarr
from obstore.store import S3Store
from zarr.storage import ObjectStore

bucket, _, prefix = sys.argv[1].removeprefix("s3://").partition("/")


def connect(below: str) -> S3Store:
    where = {"aws_endpoint": os.environ["AWS_ENDPOINT_URL"]}
    return S3Store(bucket, prefix=f"{prefix}/{below}".strip("/"), config=where, client_options={"allow_http": True})


store = ObjectStore(connect(""), read_only=True)
version = json.loads(bytes(store.store.get("latest.json").bytes()))["version"]

# plain zarr: a set is labels, aligned with the rows of its segments one after the other
labels = zarr.open_group(store, path=f"sets/{version}", mode="r")
manifest = labels.attrs
segments = f"specs/{manifest['spec']}/segments"
for ref in manifest["segments"]:
    features = zarr.open_array(store, path=f"{segments}/{ref['segment']}/features-{manifest['basis']}", mode="r")
    print(ref["segment"], features.shape, features.dtype, features.metadata.dimension_names)
print("positions of the first rows:", labels["position"][:2].tolist())

# xarray: one segment, lazily
first = connect(f"{segments}/{manifest['segments'][0]['segment']}")
print(xarray.open_zarr(ObjectStore(first, read_only=True))["logmel"])
