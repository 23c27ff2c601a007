"""The last decoded pieces of a compressed file, within a fixed number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy.typing as npt

__all__ = ["CACHE_BYTES", "RecentPieces"]

CACHE_BYTES = 192 * 2**20
"""What one open file may keep in memory."""


class RecentPieces:
    """A least-recently-used store of arrays, safe to use from several threads.

    Parameters
    ----------
    limit
        Bytes to keep. A piece larger than this is not kept.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._bytes = 0
        self._pieces: OrderedDict[Hashable, npt.NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return the piece under `key`, made by `make` if it is not there; two threads may make the same piece."""
        with self._lock:
            if key in self._pieces:
                self._pieces.move_to_end(key)
                return self._pieces[key]
        piece = make()
        with self._lock:
            if key not in self._pieces and piece.nbytes <= self._limit:
                self._pieces[key] = piece
                self._bytes += piece.nbytes
                while self._bytes > self._limit:
                    _, dropped = self._pieces.popitem(last=False)
                    self._bytes -= dropped.nbytes
        return piece
