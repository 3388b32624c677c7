"""A feature set as training sees it: batches of a split, for one rank, in an order that can be resumed in mid-epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch

from featurestore.errors import UsageError
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.sessions import Sessions
from featurestore.store.sets import LATEST
from featurestore.store.split import Split
from trainer.stream.batches import CPU, Batch, BatchStream
from trainer.stream.chunk_table import ChunkTable
from trainer.stream.device import DeviceMemoryBudget, DeviceRows, check_cache
from trainer.stream.options import StreamOptions
from trainer.stream.order import EpochOrder, OrderSpec
from trainer.stream.prefetch import StreamStats
from trainer.stream.session_order import SessionOrder
from trainer.stream.source import ChunkSource

BEFORE = {"batches_of": "row"}
"""What was so in all states before they said it."""

ORDER_SCHEMA = 1
"""To be raised when `order` is changed so that the same numbers give another order: old states are refused then."""


UNITS = ("row", "session")
"""What batches are made of."""


@dataclass(frozen=True)
class DataOptions:
    """What decides which rows are served when, but for the rank.

    Attributes:
        batch_size: rows, or sessions, of one rank's batch.
        seed: of the train order, 0 or more.
        world_size: ranks that share each epoch.
        pool_chunks: chunks whose rows are mixed with each other.
        by: `row`, or `session`: batches are `SessionBatch`.

    Raises:
        UsageError: when `by` is something else.
    """

    batch_size: int = 256
    seed: int = 42
    world_size: int = 1
    pool_chunks: int = 8
    by: str = "row"

    def __post_init__(self) -> None:
        if self.by not in UNITS:
            raise UsageError(f"by is {self.by!r}; expected one of {', '.join(UNITS)}")


class FeatureStream:
    """The batches of a feature set: of rows, or of sessions (then each is a `SessionBatch`).

    Training goes through epochs: each `train()` yields what is left of the current one, and the next one begins when the
    last batch has been handed over. `state_dict` tells where that is, `load_state_dict` goes on from there, exactly.

    Args:
        feature_set: an open set; `FeatureStream.open` opens one.
        options: see `DataOptions`.
        stream: see `StreamOptions`.
        rank: which of the `world_size` ranks this is.
        device: where batches are wanted; a GPU gets them while it computes.

    Attributes:
        epoch: of the next train batch.
        batch: its number in that epoch.

    Raises:
        UsageError: when an option is out of range, or rows are to stay on a GPU and there is none.
        StoreError: when the set is damaged.
    """

    def __init__(
        self,
        feature_set: FeatureSet,
        options: DataOptions | None = None,
        stream: StreamOptions | None = None,
        rank: int = 0,
        device: torch.device = CPU,
    ) -> None:
        self.feature_set = feature_set
        self.options = options or DataOptions()
        self.rank = rank
        self.epoch = self.batch = 0
        self._stream_options = stream or StreamOptions()
        self._device = device
        self._spec(0)  # says early what is out of range
        check_cache(self._stream_options.cache, device)
        self._source = ChunkSource(feature_set, self._stream_options)
        self._budget = DeviceMemoryBudget(device)
        self._tables: dict[Split, ChunkTable] = {}
        self._sessions: dict[Split, Sessions] = {}
        self._resident: dict[Split, DeviceRows | None] = {}
        self._streams: dict[tuple[Split, bool], BatchStream] = {}

    @classmethod
    def open(  # noqa: PLR0913, PLR0917 - what `__init__` takes, and where the set is
        cls,
        store: str,
        version: str = LATEST,
        options: DataOptions | None = None,
        stream: StreamOptions | None = None,
        rank: int = 0,
        device: torch.device = CPU,
    ) -> FeatureStream:
        """Open a feature set; see `featurestore.open_set` and the class."""
        return cls(open_set(store, version), options, stream, rank, device)

    def order(self, split: Split, epoch: int | None = None) -> EpochOrder:
        """The order of a split: drawn for an epoch, or that of the store.

        Raises:
            UsageError: when the split has no rows, or too few for one global batch of a drawn order.
        """
        table, spec = self._table(split), self._spec(epoch)
        by_session = self.options.by == "session"
        order = SessionOrder(table, self.sessions(split), spec) if by_session else EpochOrder(table, spec)
        if not order.n_batches:
            wanted = 1 if epoch is None else self.options.batch_size * self.options.world_size
            n, each, name = order.units.n_rows, f"{self.options.by}s", split.name.lower()
            raise UsageError(
                f"the {name} split of {self.feature_set.url} has {n} {each}; expected at least {wanted} (batch size "
                f"{self.options.batch_size}, {self.options.world_size} ranks): use a larger set, other shares of the splits, "
                "or smaller batches"
            )
        return order

    def sessions(self, split: Split) -> Sessions:
        """The sessions of a split, which batches of sessions number; see `FeatureSet.sessions`."""
        if split not in self._sessions:
            self._sessions[split] = self.feature_set.sessions(split)
        return self._sessions[split]

    def train(self, near_end: Callable[[], object] | None = None) -> Generator[Batch]:
        """What is left of the current train epoch; each batch counts as done when it has been handed over.

        Args:
            near_end: called once, when no more than the last pool of chunks is left: the time to `prepare` what comes next.
        """
        epoch, order = self.epoch, self.order(Split.TRAIN, self.epoch)
        batches = self._stream(Split.TRAIN, drawn=True).batches(order, self.batch)
        last_pool = order.n_batches - math.ceil(order.n_batches * self.options.pool_chunks / len(order.table))
        try:
            for number, batch in enumerate(batches, self.batch + 1):
                self.seek(*((epoch, number) if number < order.n_batches else (epoch + 1, 0)))
                if near_end is not None and number >= last_pool:
                    near_end()
                    near_end = None
                yield batch
        finally:
            batches.close()

    def prepare(self, split: Split, epoch: int | None = None) -> None:
        """Fetch the first chunks of a train epoch, or of an evaluation, ahead; see `BatchStream.prepare`."""
        self._stream(split, drawn=epoch is not None).prepare(self.order(split, epoch))

    def evaluate(self, split: Split) -> Generator[Batch]:
        """All rows of a split in storage order; of several ranks each yields its share; padding: see `trainer.stream.order`."""
        yield from self._stream(split, drawn=False).batches(self.order(split))

    @property
    def train_stats(self) -> StreamStats:
        """What the train epoch that was begun last has cost so far."""
        return self._stream(Split.TRAIN, drawn=True).stats

    def evaluate_stats(self, split: Split) -> StreamStats:
        """What the evaluation of a split that was begun last has cost so far."""
        return self._stream(split, drawn=False).stats

    def seek(self, epoch: int, batch: int) -> None:
        """Go on with this batch of this epoch at the next `train()`."""
        self.epoch, self.batch = epoch, batch

    def close(self) -> None:
        """End all threads; what is kept in memory stays."""
        for stream in self._streams.values():
            stream.close()

    def state_dict(self) -> dict[str, Any]:
        """Where training is: the next batch, and all that the order depends on; plain values. The same for every rank."""
        return {"epoch": self.epoch, "batch": self.batch, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken.

        Raises:
            UsageError: when it was taken with another set, seed, batch size or number of ranks: the rows that are still to
                be served would be others.
        """
        for name, here in self._identity().items():
            there = state.get(name, BEFORE.get(name))
            if there != here:
                raise UsageError(
                    f"cannot resume: the state was saved with {name.replace('_', ' ')} {there!r}, this run has "
                    f"{here!r}; resume with the same, or begin a new run"
                )
        self.seek(state["epoch"], state["batch"])

    def _identity(self) -> dict[str, Any]:
        return {
            "order_schema": ORDER_SCHEMA,
            "version": self.feature_set.version,
            "batches_of": self.options.by,
            "batch_size": self.options.batch_size,
            "world_size": self.options.world_size,
            "seed": self.options.seed,
            "pool_chunks": self.options.pool_chunks,
        }

    def _spec(self, epoch: int | None) -> OrderSpec:
        options = self.options
        return OrderSpec(
            options.batch_size,
            epoch is not None,
            options.seed,
            epoch or 0,
            self.rank,
            options.world_size,
            options.pool_chunks,
        )

    def _table(self, split: Split) -> ChunkTable:
        if split not in self._tables:
            self._tables[split] = self._source.table(split)
        return self._tables[split]

    def _stream(self, split: Split, *, drawn: bool) -> BatchStream:
        """One for training and one for evaluation: their batches may be in use at the same time."""
        if (split, drawn) not in self._streams:
            if split not in self._resident:
                self._resident[split] = self._to_cache(split)
            per_line = self.sessions(split).largest if self.options.by == "session" else 1
            n_places = self.options.batch_size * max(1, per_line)
            self._streams[split, drawn] = BatchStream(
                self._source, n_places, self._stream_options, self._device, self._resident[split]
            )
        return self._streams[split, drawn]

    def _to_cache(self, split: Split) -> DeviceRows | None:
        """Decide where a split's rows stay after they were read: on the device, in memory, or nowhere."""
        table, mode = self._table(split), self._stream_options.cache
        if mode in ("gpu", "auto"):
            rows = self._budget.allocate(table, self._source.tensor_shape, always=mode == "gpu")
            if rows is not None:
                return rows
        if mode in ("ram", "auto"):
            self._source.cache(table, always=mode == "ram")
        return None
