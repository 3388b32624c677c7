"""Chunks of tensors: log-mel from IQ, everything else from log-mel; a checksum, or what survives, proves them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from featurestore.build.chunk_tasks import content_digest
from featurestore.build.rows_from_iq import compute_rows
from featurestore.care.repair.context import RepairContext, UnrepairableError
from featurestore.care.repair.places import Place
from featurestore.care.verify.agreement import features_agree
from featurestore.errors import StoreError
from featurestore.objects.objects import open_objects
from featurestore.store.bases import Basis, read_basis, represent
from featurestore.store.chunks import Array, ChunkBuffer, read_chunk
from featurestore.store.segments import Segment
from featurestore.tensor.mel import LogMel
from featurestore.tensor.rejection import Reason, Rejection

Float32 = npt.NDArray[np.float32]


def sources_wanted(context: RepairContext, place: Place) -> list[bytes]:
    """Digests of the recordings that a chunk of log-mel comes from."""
    rows = context.segment(place.segment).logmel.rows(place.chunk)
    part = slice(rows.start, rows.stop)
    valid = context.reason(place.segment)[part] == Reason.VALID
    return [digest.tobytes() for digest in context.facts(place.segment).source_digest[part][valid]]


def repair_logmel(context: RepairContext, place: Place) -> str:
    """A chunk of log-mel, computed from IQ."""
    segment = context.segment(place.segment)
    layout = segment.logmel
    buffer = ChunkBuffer(layout)
    n_rows = len(layout.rows(place.chunk))
    logmel: Float32 = buffer.rows[:n_rows]
    valid = _compute(context, place, segment, logmel)
    promised = context.promised(segment, "logmel", place.chunk)
    crc = buffer.seal(n_rows)
    key = f"{segment.path}/logmel/{layout.key(place.chunk)}"
    if crc == promised:
        context.put(key, buffer.data)
        return "computed from IQ again; its CRC-32C is the promised one"
    proof = _proof(context, place, segment, logmel, valid)
    context.put(key, buffer.data)
    if promised is None:
        return f"computed from IQ again; the checksum that it had is lost, but {proof}"
    crcs = {"logmel": crc}
    if "content" in context.marker(place.segment)["chunks"]:
        content = segment.content
        sealed = ChunkBuffer(content)
        sealed.rows[:n_rows] = _digests(logmel, valid)
        crcs["content"] = sealed.seal(n_rows)
        context.put(f"{segment.path}/content/{content.key(place.chunk)}", sealed.data)
    context.promise(segment, crcs, place.chunk)
    return (
        f"computed from IQ again; its bits are not those it had (CRC-32C {crc:08x}, promised was {promised:08x}), as with "
        f"another FFT build, but {proof}; segment.json now says so, and content was made anew"
    )


def repair_content(context: RepairContext, place: Place) -> str:
    """A chunk of `content`, from log-mel."""
    segment = context.segment(place.segment)
    rows = segment.logmel.rows(place.chunk)
    valid = context.reason(place.segment)[rows.start : rows.stop] == Reason.VALID
    digests = _digests(_read_logmel(context, segment, place.chunk), valid)
    return f"made again from log-mel{_write(context, segment, place, digests)}"


def repair_features(context: RepairContext, place: Place) -> str:
    """A chunk of features, from log-mel and the basis."""
    segment = context.segment(place.segment)
    logmel = _read_logmel(context, segment, place.chunk)
    basis = read_basis(context.objects, context.spec.id, place.array.removeprefix("features-"))
    features = np.empty((len(logmel), *context.spec.tensor_shape), np.float16)
    basis.normalize((represent(context.spec, row) for row in logmel), features)
    return f"normalized from log-mel again{_write(context, segment, place, features)}"


def _compute(context: RepairContext, place: Place, segment: Segment, out: Float32) -> npt.NDArray[np.bool_]:
    """Fill the rows of a chunk: rejected ones with NaN. Returns which are valid."""
    rows = segment.logmel.rows(place.chunk)
    part = slice(rows.start, rows.stop)
    facts = context.facts(place.segment)
    valid: npt.NDArray[np.bool_] = context.reason(place.segment)[part] == Reason.VALID
    if context.sources is None:
        raise UnrepairableError("it is computed from recordings; say where they are with --raw")
    lost = valid & ~context.sources.has(facts.source_digest[part])
    rejected: dict[int, Rejection] = {}
    if not lost.any():
        windows = context.sources.windows(facts.source_digest[part], facts.window[part].tolist(), valid)
        _, rejected = compute_rows(open_objects(context.sources.raw.url), windows, LogMel(context.spec), out)
        lost = valid & np.isin(np.arange(len(valid)), list(rejected))
    if lost.any():
        ids = np.unique(facts.capture_id[part][lost]).tolist()
        some = ", ".join(map(str, ids[:10])) + (", …" if len(ids) > 10 else "")
        raise UnrepairableError(
            f"the recordings of {len(ids):,} of its captures are gone, or were replaced or written anew since ({some}); "
            "restore them with their times, or restore this object from a copy of the store, or build-features into an empty "
            "--store makes a set without them"
        )
    out[~valid] = np.nan
    return valid


def _proof(context: RepairContext, place: Place, segment: Segment, logmel: Float32, valid: npt.NDArray[np.bool_]) -> str:
    """What shows that log-mel is right, though no checksum does.

    Raises:
        UnrepairableError: when nothing survives that could, or when that differs.
    """
    for name in context.objects.names(segment.path):
        if not name.startswith("features-") or name.endswith(".json"):
            continue
        try:
            basis = read_basis(context.objects, context.spec.id, name.removeprefix("features-"))
            crc = context.promised(segment, name, place.chunk)
            features = read_chunk(context.objects, f"{segment.path}/{name}", segment.features(basis.id), place.chunk, crc)
        except (StoreError, UnrepairableError):
            continue  # this one does not survive
        if not _agree(context, basis, features[valid], logmel[valid]):
            raise UnrepairableError(
                f"what its recordings give now differs from its {name}, which is intact: it was computed by other code; "
                "restore it from a copy of the store, or build again into an empty store"
            )
        return f"it agrees with the chunk's {name}, which is intact"
    lost = (
        "the checksum that it had is lost"
        if context.promised(segment, "logmel", place.chunk) is None
        else ("what is computed here does not have its checksum")
    )
    raise UnrepairableError(
        f"{lost}, and no intact features are left of it to compare with; "
        f"repair it where numpy and scipy are those that wrote it ({_software(context, segment)}), or restore it from a copy"
    )


def _agree(context: RepairContext, basis: Basis, features: npt.NDArray[np.float16], logmel: Float32) -> bool:
    mean, std = basis.mean[..., None], basis.std[..., None]
    exact = [(represent(context.spec, row) - mean) / std for row in logmel]
    return not exact or bool(features_agree(context.spec, features, logmel, np.stack(exact), basis.std).all())


def _software(context: RepairContext, segment: Segment) -> str:
    try:
        software = context.marker(segment.segment)["software"]
    except (UnrepairableError, KeyError):
        return "which is lost"
    return ", ".join(f"{name} {version}" for name, version in software.items())


def _digests(logmel: Float32, valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    digests = np.zeros((len(logmel), 16), np.uint8)
    for row in np.flatnonzero(valid):
        digests[row] = content_digest(logmel[row])
    return digests


def _read_logmel(context: RepairContext, segment: Segment, chunk: int) -> Float32:
    layout = segment.logmel
    key = f"{segment.path}/logmel/{layout.key(chunk)}"
    if key in context.damaged:
        raise UnrepairableError(
            f"it comes from {context.objects.location}/{key}, which could not be repaired; restore that first"
        )
    return read_chunk(context.objects, f"{segment.path}/logmel", layout, chunk, context.promised(segment, "logmel", chunk))


def _write(context: RepairContext, segment: Segment, place: Place, rows: Array) -> str:
    """Write what log-mel alone decides; a checksum that differs is that of what another log-mel gave. Returns what to say."""
    layout = segment.layout(place.array)
    promised = context.promised(segment, place.array, place.chunk)
    if promised is None:
        context.write_chunk(place.path, layout, place.chunk, rows)
        return "; the checksum that it had is lost"
    if context.write_chunk(place.path, layout, place.chunk, rows, promised):
        return "; its CRC-32C is the promised one"
    context.write_chunk(place.path, layout, place.chunk, rows)
    crc = context.checksum(place.path, layout, place.chunk)
    context.promise(segment, {place.array: crc}, place.chunk)
    return (
        f", which has other bits than before; its CRC-32C is {crc:08x}, promised was {promised:08x}, and the marker now says so"
    )
