"""One recording file of any known format → `Recording`."""

from __future__ import annotations

from pathlib import Path

from featurestore.corpus.ingest.headers.facts import complete
from featurestore.corpus.ingest.headers.names import parse_name
from featurestore.corpus.ingest.levels import check_levels
from featurestore.corpus.ingest.npy_files import read_npy
from featurestore.corpus.ingest.samples import RAW_FORMATS, Recording, read_raw
from featurestore.corpus.ingest.sigmf_files import ARCHIVE, DATA, META, read_sigmf
from featurestore.corpus.ingest.uff import is_uff, read_uff
from featurestore.corpus.ingest.wav import is_wav, read_wav
from featurestore.errors import DataQualityError
from featurestore.source.npy_header import MAGIC

SUFFIXES = {
    ".npy": "npy",
    ".wav": "wav",
    ".uff": "uff",
    META: "sigmf",
    DATA: "sigmf",
    ARCHIVE: "sigmf",
    ".complex": "cf32",  # from here on: the names of Universal Radio Hacker, GNU Radio and UHD for the same bytes
    ".complex16s": "cs8",
    ".complex16u": "cu8",
    ".complex32s": "cs16",
    ".complex32u": "cu16",
    ".cfile": "cf32",
    ".fc32": "cf32",
    ".sc16": "cs16",
    ".sc8": "cs8",
    **{f".{name}": name for name in RAW_FORMATS},
}
"""Format by file name ending; endings that programs use for several formats (.iq, .raw, .bin, .dat, .c64) are not guessed."""

FORMATS = ("npy", "wav", "sigmf", "uff", *RAW_FORMATS)
HEAD_BYTES = 512


def read_recording(path: Path, stated_format: str | None = None) -> Recording:
    """Open a recording; its samples are decoded when they are read.

    Args:
        path: the file.
        stated_format: one of `FORMATS`; `None` takes SigMF when there is metadata beside the file, else what the ending, the
            pattern of the name or the first bytes say.

    Raises:
        DataQualityError: when the file cannot be read as IQ; the message is a phrase without the file's name.
        OSError: when it cannot be opened.
    """
    if path.is_dir():
        raise DataQualityError("is a directory; name a file in it")
    if not path.is_file():
        raise DataQualityError("does not exist; correct the name in the labels")
    if path.stat().st_size == 0:
        raise DataQualityError("is empty (0 bytes); record or copy it again")
    kind = stated_format or _guess(path)
    if kind == "npy":
        recording = read_npy(path)
    elif kind == "wav":
        recording = read_wav(path)
    elif kind == "sigmf":
        recording = read_sigmf(path)
    elif kind == "uff":
        recording = read_uff(path)
    else:
        recording = read_raw(path, RAW_FORMATS[kind])
    if len(recording) == 0:
        raise DataQualityError("holds no samples")
    check_levels(recording)
    facts = parse_name(path.name)
    return complete(recording, facts) if facts else recording


def known_by_name(path: Path) -> bool:
    """Whether a file's name alone says that it is a recording."""
    facts = parse_name(path.name)
    return path.suffix.lower() in SUFFIXES or (facts is not None and facts.sample_format is not None)


def _guess(path: Path) -> str:
    kind = SUFFIXES.get(path.suffix.lower())
    if kind in (None, *RAW_FORMATS) and path.with_suffix(META).is_file():
        return "sigmf"
    facts = parse_name(path.name)
    kind = kind or (facts and facts.sample_format) or _by_first_bytes(path)
    if kind is None:
        raise DataQualityError(
            f"ends in {path.suffix!r}, which does not tell its format; add a 'format' to its label, such as cf32 (GNU Radio), "
            f"cu8 (rtl_sdr), cs8 (HackRF) or cs16 (SoapySDR): one of {', '.join(FORMATS)}"
        )
    return kind


def _by_first_bytes(path: Path) -> str | None:
    """The format of a file under a foreign ending, where its first bytes leave no doubt."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if is_wav(head):
        return "wav"
    return "npy" if head.startswith(MAGIC) else "uff" if is_uff(head) else None
