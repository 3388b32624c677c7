"""Bases: the mean and std that normalize the tensors of a spec, under `specs/{spec}/bases/{basis}`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import StoreError
from featurestore.objects.concurrently import at_once, map_concurrently, put_all
from featurestore.objects.objects import Objects
from featurestore.store.chunks import REPAIR, ArrayLayout, array_objects, read_arrays
from featurestore.store.gc_notices import require_stored, require_unannounced
from featurestore.store.write_segments import group_metadata
from featurestore.tensor.mel import cepstrum
from featurestore.tensor.moments import Moments
from featurestore.tensor.spec import FeatureSpec, digest

Float32 = npt.NDArray[np.float32]

STATISTICS = ("mean", "std")


@dataclass(frozen=True)
class Basis:
    """Mean and std per channel and band.

    Attributes:
        mean: (3, band) float32, dB (or the unit of cepstral coefficients).
        std: (3, band) float32, at least 0.1.
        rows: train rows they come from.
        created: when, ISO 8601.
        origin: more about those rows: split, segments.
    """

    mean: Float32
    std: Float32
    rows: int
    created: str
    origin: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(cls, moments: Moments, rows: int, origin: Mapping[str, Any]) -> Basis:
        """The basis of merged moments."""
        created = datetime.now(UTC).isoformat(timespec="microseconds")
        return cls(moments.mean.astype(np.float32), moments.std.astype(np.float32), rows, created, origin)

    @cached_property
    def id(self) -> str:
        """Its name: digest of mean and std, as little-endian float32."""
        return digest(self.mean.astype("<f4").tobytes() + self.std.astype("<f4").tobytes())

    def normalize(self, rows: Iterable[Float32], out: npt.NDArray[np.float16]) -> None:
        """Write `(row - mean) / std` for each row; a row at a time stays in the cache.

        Args:
            rows: each (3, band, frame).
            out: (row, 3, band, frame); rows beyond those given stay as they are.
        """
        n_frames = out.shape[-1]
        mean, std = (np.repeat(values[..., None], n_frames, axis=-1) for values in (self.mean, self.std))
        centred = np.empty(out.shape[1:], np.float32)
        with np.errstate(invalid="ignore"):  # rejected rows hold NaN
            for index, row in enumerate(rows):
                np.subtract(row, mean, out=centred)
                np.divide(centred, std, out=centred)
                out[index] = centred


def represent(spec: FeatureSpec, logmel: Float32) -> Float32:
    """What is normalized and stored of log-mel rows: themselves, or their cepstral coefficients."""
    return cepstrum(logmel, spec.n_mfcc) if spec.n_mfcc else logmel


def bases_path(spec_id: str) -> str:
    """Where the bases of a spec are."""
    return f"specs/{spec_id}/bases"


def write_basis(objects: Objects, spec: FeatureSpec, basis: Basis) -> None:
    """Write a basis, its group metadata last. Of one that exists, only the time is new: it is the current one again.

    Raises:
        ServiceUnavailableError: when `features gc` is removing it, or has taken some of it meanwhile.
    """
    path = f"{bases_path(spec.id)}/{basis.id}"
    layouts = {name: statistics_layout(spec, name) for name in STATISTICS}
    arrays = (array_objects(f"{path}/{name}", getattr(basis, name), layout) for name, layout in layouts.items())
    written = list(chain.from_iterable(arrays))
    at_once(objects, lambda: require_unannounced(objects, [path]), lambda: put_all(objects, written))
    write_basis_group(objects, spec, basis)
    require_stored(objects, [path], {f"{path}/zarr.json", *(key for key, _ in written)}, f"{path}/zarr.json")


def statistics_layout(spec: FeatureSpec, name: str) -> ArrayLayout:
    """The array `mean` or `std` of a basis."""
    band = "coefficient" if spec.n_mfcc else "mel"
    units = "1" if spec.n_mfcc else ("dBFS" if name == "mean" else "dB")
    return ArrayLayout(spec.tensor_shape[:2], 3, np.dtype("<f4"), 0, ("channel", band), {"units": units})


def write_basis_group(objects: Objects, spec: FeatureSpec, basis: Basis) -> None:
    """Write the group metadata of a basis: its arrays', and where it comes from."""
    attributes = {"spec": spec.id, "basis": basis.id, "rows": basis.rows, "created": basis.created, **basis.origin}
    arrays = {name: statistics_layout(spec, name).metadata() for name in STATISTICS}
    objects.put_json(f"{bases_path(spec.id)}/{basis.id}/zarr.json", group_metadata(attributes, arrays))


def read_basis(objects: Objects, spec_id: str, basis: str) -> Basis:
    """A basis by its name.

    Raises:
        StoreError: when it is missing or damaged.
    """
    path = f"{bases_path(spec_id)}/{basis}"
    name = f"{objects.location}/{path}"
    try:
        attributes = dict(objects.get_json(f"{path}/zarr.json")["attributes"])
        rows, created = attributes.pop("rows"), attributes.pop("created")
    except FileNotFoundError as error:
        raise StoreError(f"{name}/zarr.json is missing; {REPAIR}") from error
    except (KeyError, TypeError) as error:
        raise StoreError(f"{name}/zarr.json is no basis ({error!r}); it is damaged: {REPAIR}") from error
    mean, std = read_arrays(objects, [f"{path}/{name}" for name in STATISTICS])
    stored = Basis(mean, std, rows, created, attributes)
    if stored.id != basis:
        raise StoreError(f"{name} holds mean and std of basis {stored.id}; it is damaged: {REPAIR}")
    return stored


def current_basis(objects: Objects, spec_id: str) -> Basis | None:
    """The newest basis of a spec, which builds keep; `None` when there is none yet."""

    def read(name: str) -> Basis | None:
        try:
            objects.get(f"{bases_path(spec_id)}/{name}/zarr.json")
        except FileNotFoundError:  # its writer was interrupted
            return None
        try:
            return read_basis(objects, spec_id, name)
        except StoreError:
            if "zarr.json" in objects.names(f"{bases_path(spec_id)}/{name}"):
                raise
            return None  # it was removed meanwhile

    bases = map_concurrently(objects, read, objects.names(bases_path(spec_id)))
    complete = [basis for basis in bases if basis is not None]
    return max(complete, key=lambda basis: (basis.created, basis.id), default=None)
