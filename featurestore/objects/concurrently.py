"""Many requests at once: where each only waits for its answer, they are sent together rather than one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar, overload

from featurestore.objects.objects import Objects, WritableBytes

AT_ONCE = 16
"""Requests in flight; so many objects are held in memory at most."""

Item = TypeVar("Item")
Result = TypeVar("Result")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


def map_concurrently(objects: Objects, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What `function` returns for each item, in their order; at a remote store `AT_ONCE` of them are under way.

    Items are taken as they are needed. When one fails, those that were begun are waited for, and its error is raised.
    Local files answer sooner than a thread is woken: there, one goes after the other.
    """
    return list(_each(objects, function, items))


@overload
def at_once(objects: Objects, one: Callable[[], A], two: Callable[[], B], /) -> tuple[A, B]: ...
@overload
def at_once(objects: Objects, one: Callable[[], A], two: Callable[[], B], three: Callable[[], C], /) -> tuple[A, B, C]: ...
def at_once(objects: Objects, *steps: Callable[[], Any]) -> Any:
    """What each step returns; they go on beside each other, as with `map_concurrently`. The first step's error counts."""
    return tuple(map_concurrently(objects, lambda step: step(), steps))


def put_all(objects: Objects, items: Iterable[tuple[str, WritableBytes]]) -> None:
    """Write objects, key and bytes each, in any order: what must be there before something else is in a call of its own."""
    for _ in _each(objects, lambda item: objects.put(*item), items):
        pass


def get_all(objects: Objects, keys: Iterable[str]) -> list[bytes | None]:
    """Whole objects; `None` for those that are absent."""

    def get(key: str) -> bytes | None:
        try:
            return objects.get(key)
        except FileNotFoundError:
            return None

    return map_concurrently(objects, get, keys)


def check_all(locations: Sequence[Objects]) -> None:
    """`Objects.check` of several locations at once."""
    map_concurrently(locations[-1], Objects.check, locations)


def _each(objects: Objects, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    remaining = iter(items)
    first = list(islice(remaining, 2))
    if objects.location.is_local or len(first) < 2:  # one alone needs no thread
        yield from map(function, first)
        yield from map(function, remaining)
        return
    with ThreadPoolExecutor(AT_ONCE, "together") as pool:
        pending: deque[Future[Result]] = deque(pool.submit(function, item) for item in first)
        pending.extend(pool.submit(function, item) for item in islice(remaining, AT_ONCE - len(first)))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        except BaseException:
            for future in pending:
                future.cancel()
            raise
