"""SigMF recordings: metadata and dataset side by side, or both in one archive; read by way of the `sigmf` package."""

from __future__ import annotations

import io
import json
import os
import tarfile
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.corpus.ingest.samples import RAW_FORMATS, NumberFormat, Recording, map_bytes, split_components
from featurestore.corpus.ingest.times import NS, parse_time, parse_time_ns
from featurestore.errors import DataQualityError
from featurestore.source.npy_header import brief

TIME_SIGMA = "heimdall:time_sigma_s"
"""Of a capture segment: one standard deviation of its core:datetime in seconds; SigMF itself has no field for that."""
META, DATA, ARCHIVE = ".sigmf-meta", ".sigmf-data", ".sigmf"
MAX_META_BYTES = 64 << 20
MAX_MEMBERS = 1000
"""Of an archive; one recording has two."""


def read_sigmf(path: Path) -> Recording:
    """The recording that `path` belongs to: its metadata, its dataset (under any name) or its archive.

    Raises:
        DataQualityError: when a part is missing, damaged (its SHA-512 differs) or not single-channel complex IQ.
        OSError: when a file cannot be opened.
    """
    if path.suffix.lower() == ARCHIVE:
        return _read_archive(path)
    meta_path = path if path.suffix.lower() == META else path.with_suffix(META)
    if not meta_path.is_file():
        raise DataQualityError(f"has no metadata: {meta_path.name} is not beside it; add it, or name a raw format")
    meta = _parse(meta_path.read_bytes() if meta_path.stat().st_size <= MAX_META_BYTES else b"")
    data_path, notes = _find_data(path, meta_path, meta)
    return _build(meta, data_path, 0, data_path.stat().st_size, notes)


def companions(path: Path) -> set[Path]:
    """The files that `path` may be read together with, itself included, whether they exist or not."""
    return {path, path.with_suffix(META), path.with_suffix(DATA)} if path.name else {path}


def _find_data(path: Path, meta_path: Path, meta: dict[str, Any]) -> tuple[Path, list[str]]:
    """The dataset: the file that was named itself, the one the metadata names, or the one of the same stem."""
    named = meta["global"].get("core:dataset")
    if path != meta_path:
        odd = isinstance(named, str) and named != path.name
        return path, [f"the metadata names the dataset {named!r}; {path.name} is read"] if odd else []
    raw = [path.with_suffix(f".{name}") for name in RAW_FORMATS]
    # Only the name, never a path: metadata from elsewhere must not choose files outside its folder.
    candidates = [path.with_name(Path(named).name)] if isinstance(named, str) and Path(named).name else []
    for candidate in (*candidates, path.with_suffix(DATA), *raw):
        if candidate.is_file():
            odd = candidate.suffix.lower() != DATA
            return candidate, [f"{candidate.name} is read as its dataset"] if odd else []
    raise DataQualityError(f"has no dataset: neither {path.with_suffix(DATA).name} nor another of that name is beside it")


def _parse(text: bytes) -> dict[str, Any]:
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataQualityError(f"has metadata that is not JSON ({error}); it is damaged") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("global"), dict) or not isinstance(meta.get("captures", []), list):
        raise DataQualityError("has metadata without the 'global' object and 'captures' list of SigMF; it is damaged")
    return meta


def _build(meta: dict[str, Any], data_path: Path, start: int, n_bytes: int, notes: list[str]) -> Recording:
    header = meta["global"]
    number = _number(header)
    segments = [segment for segment in meta.get("captures", []) if isinstance(segment, dict)]
    first = segments[0] if segments else {}
    _check_hash(header, data_path, start, n_bytes)
    skipped = first.get("core:header_bytes", 0), header.get("core:trailing_bytes", 0)
    if not all(isinstance(count, int) and 0 <= count <= n_bytes for count in skipped):
        raise DataQualityError(f"states impossible header and trailing bytes {skipped} for a dataset of {n_bytes} bytes")
    stored = map_bytes(data_path, start + skipped[0], n_bytes - sum(skipped))
    if len(segments) > 1:
        notes = [*notes, f"{len(segments)} capture segments are read as one, with the frequency and time of the first"]
    frequency_hz = _number_or_none(first.get("core:frequency"))
    return Recording(
        split_components(stored, number),
        number,
        _number_or_none(header.get("core:sample_rate")),
        frequency_mhz=None if frequency_hz is None else frequency_hz / 1e6,
        timestamp=_time(first.get("core:datetime")),
        start_time_ns=_start_time_ns(first, header),
        time_sigma_s=_number_or_none(first.get(TIME_SIGMA)),
        notes=tuple(notes),
    )


def _start_time_ns(first: dict[str, Any], header: dict[str, Any]) -> int | None:
    """Time of sample 0: the metadata dates the first sample of a segment, and the first segment may begin later."""
    stated, rate_hz = first.get("core:datetime"), _number_or_none(header.get("core:sample_rate"))
    before = first.get("core:sample_start", 0)
    if _time(stated) is None or not isinstance(before, int) or not (before == 0 or (rate_hz or 0) > 0):
        return None
    return parse_time_ns(str(stated)) - (round(Fraction(before) / Fraction(rate_hz) * NS) if before and rate_hz else 0)


def _number(header: dict[str, Any]) -> NumberFormat:
    """The number format of `core:datatype`, such as ci16_le."""
    import sigmf.sigmffile
    from sigmf.error import SigMFError

    name = header.get("core:datatype")
    channels = header.get("core:num_channels", 1)
    if channels != 1:
        raise DataQualityError(f"holds {channels!r} channels; expected one: split it first")
    try:
        info = sigmf.sigmffile.dtype_info(name)
    except (SigMFError, AttributeError, TypeError, IndexError) as error:
        raise DataQualityError(f"states the unknown core:datatype {name!r}; expected one such as ci16_le or cf32_le") from error
    if not info["is_complex"]:
        raise DataQualityError(f"holds real samples (core:datatype {name}), so it is not IQ")
    component = np.dtype(info["component_dtype"])
    for number in RAW_FORMATS.values():
        if np.dtype(number.dtype) == component.newbyteorder("<"):
            return NumberFormat(component.str, number.zero, number.full_scale)
    raise DataQualityError(f"states core:datatype {name}, which is not supported; convert it to ci16_le or cf32_le")


def _check_hash(header: dict[str, Any], data_path: Path, start: int, n_bytes: int) -> None:
    from sigmf.hashing import calculate_sha512

    wanted = header.get("core:sha512")
    if isinstance(wanted, str) and calculate_sha512(str(data_path), offset=start, size=n_bytes) != wanted.lower():
        raise DataQualityError(f"is damaged: the SHA-512 of {data_path.name} is not the one its metadata states; copy it again")


def _read_archive(path: Path) -> Recording:
    """The one recording of an uncompressed SigMF archive (tar), its dataset mapped in place."""
    with _WithinFile(io.FileIO(path)) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                members = _files(archive, path.stat().st_size)
                metas = [member for member in members if member.name.endswith(META)]
                datas = [member for member in members if member.name.endswith(DATA)]
                if len(metas) != 1 or len(datas) != 1 or metas[0].size > MAX_META_BYTES:
                    raise DataQualityError(
                        f"holds {len(metas)} metadata and {len(datas)} data files; expected one of each: unpack it"
                    )
                text = archive.extractfile(metas[0])
                meta = _parse(text.read() if text else b"")
        except DataQualityError:
            raise
        except Exception as error:  # tarfile raises ValueError, MemoryError and others, too, for damaged headers
            raise DataQualityError(f"is no SigMF archive ({brief(str(error) or type(error).__name__)})") from error
    if datas[0].offset_data + datas[0].size > path.stat().st_size:
        raise DataQualityError("is truncated: the archive ends before its dataset does; copy it again")
    return _build(meta, path, datas[0].offset_data, datas[0].size, [])


class _WithinFile(io.BufferedReader):
    """A file for `tarfile`, which allocates what headers promise before it reads: nobody reads beyond the end here."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most what is left."""
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _files(archive: tarfile.TarFile, size_bytes: int) -> list[tarfile.TarInfo]:
    """The files of an archive; negative sizes could lead back to a member again and again."""
    members: list[tarfile.TarInfo] = []
    for member in archive:
        if not 0 <= member.size <= size_bytes or len(members) >= MAX_MEMBERS:
            raise DataQualityError(f"has a member of {brief(member.size)} bytes, or more than {MAX_MEMBERS:,}; it is damaged")
        members.append(member)
    return [member for member in members if member.isfile()]


def _number_or_none(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:  # JSON allows whole numbers of any length
        return None


def _time(value: object) -> datetime | None:
    try:
        return parse_time(value) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None
