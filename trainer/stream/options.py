"""How a stream works: a record without torch or numpy, for the help of `train` reads it."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.errors import UsageError
from featurestore.option import DATA, option

CACHE_MODES = ("auto", "gpu", "ram", "off")


@dataclass(frozen=True)
class StreamOptions:
    """How a stream works; nothing here changes what it yields.

    With `cache` auto, a split is kept on the GPU that trains if it fits into half of that GPU's free memory, else in RAM if it
    fits there.

    Attributes:
        n_buffers: a batch's memory is used again once so many more batches have been asked for.
        cache_bytes: what fits into memory, over all splits together; `None`: half of what is free when the set is opened.

    Raises:
        UsageError: when a value is out of range.
    """

    threads: int = option(4, "Number of threads that fetch chunks.", DATA)
    n_buffers: int = 4
    cache: str = option(
        "auto",
        "Where the set is kept once it was read: on the GPU, in RAM, nowhere (off), or where it fits (auto).",
        DATA,
        choices=CACHE_MODES,
    )
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "n_buffers"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.cache not in CACHE_MODES:
            raise UsageError(f"cache is {self.cache!r}; expected one of {', '.join(CACHE_MODES)}")
