"""Hostile recordings for `ingest`: each is skipped with a reason, or opened, without allocating what its headers promise."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
from faults.hostile import HOSTILE
from faults.memory import require_cheap
from faults.tally import Tally
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.corpus.ingest.formats import read_recording
from featurestore.errors import DataQualityError

CPU_S = 2.0
SPARE_BYTES = 3_000_000
"""That one recording may take, beside four times its own size."""

SIZES = st.sampled_from([0, 1, 16, 100, 2**31 - 1, 2**32 - 1])


@st.composite
def wavs(draw: st.DrawFn) -> bytes:
    """Chunks in any order, with sizes that lie."""
    numbers = st.sampled_from([0, 1, 2, 3, 8, 16, 24, 32, 64, 0xFFFE, 65_535])
    chunks = []
    for _ in range(draw(st.integers(0, 6))):
        name = draw(st.sampled_from([b"fmt ", b"data", b"kiwi", b"LIST", b"auxi", b"ds64", b"\0\0\0\0"]))
        rate = draw(st.sampled_from([0, 12_000, 2**32 - 1]))
        form = struct.pack("<HHIIHH", draw(numbers), draw(numbers), rate, 0, draw(numbers), draw(numbers))
        body = form if name == b"fmt " else draw(st.binary(max_size=40))
        chunks.append(name + struct.pack("<I", draw(SIZES | st.just(len(body)))) + body)
    return draw(st.sampled_from([b"RIFF", b"RF64", b"BW64"])) + struct.pack("<I", draw(SIZES)) + b"WAVE" + b"".join(chunks)


@st.composite
def uffs(draw: st.DrawFn) -> bytes:
    """XML headers with anything where Qt-DAB has something."""
    texts = st.sampled_from(["", "I", "Q", "int16", "uint8", "int24", "-1", "1e400", "9" * 30, "MSB", "kHz", "'", "&a;", "\0"])
    names = ["Samplerate", "Channels", "Channel", "Datablock", "Frequency", "Time", "Recorder", "Sample"]
    elements = []
    for name in draw(st.lists(st.sampled_from(names), max_size=8)):
        attributes = {
            key: draw(texts) for key in ("Value", "Unit", "Container", "Bits", "Ordering", "Count", "Offset", "Amount")
        }
        said = " ".join(f"{key}='{value}'" for key, value in attributes.items() if draw(st.booleans()))
        elements.append(f"<{name} {said}/>")
    deep = draw(st.sampled_from([0, 0, 5000]))
    text = "<?xml version='1.0'?><SDR>" + "<a>" * deep + "".join(elements) + "</a>" * deep + "</SDR>"
    return text.encode() + bytes(draw(st.sampled_from([0, 100, 3000]))) + draw(st.binary(max_size=100))


def tar_header(name: bytes, size: bytes, kind: bytes) -> bytes:
    block = bytearray(512)
    block[: len(name)], block[100:107], block[124:136] = name, b"0000644", size[:12].ljust(12, b"\0")
    block[156:157], block[257:265], block[148:156] = kind, b"ustar\x0000", b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Members of negative, huge and false sizes; extended headers of every kind."""
    sizes = [
        b"00000000020\0",
        b"77777777777\0",
        b"\xff" * 10 + b"\xfe\0",
        b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7,
        b"x",
        b"",
    ]
    bodies = [
        b"16 size=-1024\n",
        b"26 GNU.sparse.map=0,x,1,\n",
        b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n",
        b"9" * 600,
        b"{}",
    ]
    blocks = []
    for _ in range(draw(st.integers(1, 4))):
        body = draw(st.sampled_from(bodies))
        size = draw(st.sampled_from([*sizes, b"%011o\0" % len(body)]))
        name = draw(st.sampled_from([b"a.sigmf-meta", b"a.sigmf-data", b"../../x", b"\xff" * 90]))
        blocks.append(tar_header(name, size, draw(st.sampled_from([b"0", b"x", b"g", b"L", b"K", b"S", b"2", b"5"]))))
        blocks.append(body.ljust(-(-len(body) // 512) * 512, b"\0"))
    return b"".join(blocks) * draw(st.sampled_from([1, 1, 1, 300])) + bytes(1024)


ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(10**400), st.just([[]]),
    st.just({"a": {}}),
    st.sampled_from(["ci16_le", "cf32_be", "rf32", "../../canary", "\ud800", "\x00", "x" * 3000, "9999-99-99", "cu8"]),
)  # fmt: skip


@st.composite
def metadata(draw: st.DrawFn) -> bytes:
    """JSON with anything where SigMF has something."""
    names = ["datatype", "sample_rate", "num_channels", "dataset", "trailing_bytes", "sha512"]
    header = {"core:datatype": "ci16_le"} | {f"core:{name}": draw(ANYTHING) for name in names if draw(st.booleans())}
    segment = {f"core:{name}": draw(ANYTHING) for name in ("header_bytes", "frequency", "datetime") if draw(st.booleans())}
    whole = {"global": draw(st.just(header) | ANYTHING), "captures": draw(st.just([segment]) | st.just([1, None]) | ANYTHING)}
    return draw(st.just(json.dumps(whole).encode()) | st.just(b"[" * 50_000) | st.binary(max_size=20))


def opened(path: Path) -> None:
    """Either there is a reason on one line, or there are samples; in little memory either way."""

    def read() -> tuple[int, str | None]:
        try:
            return len(read_recording(path)), None
        except DataQualityError as error:
            return 0, str(error)
        except OSError as error:
            return 0, error.strerror

    n_samples, reason = require_cheap(read, 4 * path.stat().st_size + SPARE_BYTES, CPU_S)
    assert n_samples > 0 or (reason and reason.encode("utf-8", "strict"))


def test_any_recording_is_opened_or_has_a_reason(tmp_path: Path, tally: Tally, fault_rounds: int) -> None:
    (tmp_path / "a.sigmf-data").write_bytes(bytes(range(200)))

    @settings(max_examples=60 * fault_rounds, deadline=None, suppress_health_check=list(HealthCheck))
    @given(wavs(), archives(), metadata(), HOSTILE, uffs())
    def check(wav: bytes, archive: bytes, meta: bytes, npy: bytes, uff: bytes) -> None:
        files = (("b.wav", wav), ("b.sigmf", archive), ("a.sigmf-meta", meta), ("b.npy", npy), ("b.uff", uff))
        for name, data in files:
            (tmp_path / name).write_bytes(data)
            opened(tmp_path / name)
            tally.add("hostile files tried")

    check()


def test_a_wav_of_nothing_but_chunks(tmp_path: Path) -> None:
    """A record of each of them would take many times the file's size."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF\xff\xff\xff\x7fWAVE" + b"data\1\0\0\0xx" * 300_000)
    with pytest.raises(DataQualityError, match=r"is cut into 10,001 chunks"):
        read_recording(path)


def test_an_archive_that_leads_back_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.sigmf"
    path.write_bytes(tar_header(b"a", b"", b"0") + tar_header(b"b", b"\xff" * 10 + b"\xfe\0", b"0") + bytes(1024))
    with pytest.raises(DataQualityError, match="has a member of -512 bytes"):
        read_recording(path)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(1001):
            archive.addfile(tarfile.TarInfo(str(number)))
    path.write_bytes(stream.getvalue())
    with pytest.raises(DataQualityError, match=r"more than 1,000"):
        read_recording(path)
