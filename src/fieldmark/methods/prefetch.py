"""Prepare the next batch while the encoder works on this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yield the items of an iterable in order, computing the next one in a thread of its own.

    At most one item waits, so memory holds two. An error in the iterable is raised here, in its
    place.

    Example:
        >>> list(prefetch(x * x for x in range(4)))
        [0, 1, 4, 9]
    """
    iterator = iter(items)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as pool:
        waiting = pool.submit(next, iterator, _END)
        while (item := waiting.result()) is not _END:
            waiting = pool.submit(next, iterator, _END)
            yield item  # type: ignore[misc]  # anything but _END is a T
