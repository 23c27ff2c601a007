"""How a block-wise verb gets on: events for a listener, and at the end what it took against what its start promised."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from fewslice.blocks.engine import Outcome
from fewslice.blocks.preflight import peak_memory

__all__ = ["Watch"]

_START = 0.1


class Watch:
    """Time and memory of one verb on one input; a context around the work.

    Parameters
    ----------
    source
        The input.
    listener
        Called with every event, or None.
    """

    def __init__(self, source: str, listener: Callable[[dict[str, Any]], None] | None) -> None:
        self._source, self._listener = source, listener
        self._stack = ExitStack()
        self._memory: Callable[[], int] = lambda: 0
        self._began = self._seconds = 0.0
        self._computed = 0
        self._expected: tuple[float, int] | None = None

    def __enter__(self) -> Watch:
        """Start the clock."""
        self._memory = self._stack.enter_context(peak_memory(0.05))
        self._began = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop watching the memory."""
        self._stack.close()

    def tell(self, event: str, **facts: Any) -> None:
        """Pass on an event."""
        if self._listener is not None:
            self._listener({"event": event, **facts})

    def block(self, done: int, blocks: int) -> None:
        """Note that a block was finished, `done` of `blocks` in all."""
        self._computed += 1
        self._seconds = time.perf_counter() - self._began
        left = blocks - done
        if self._expected is None and self._computed >= max(2, _START * (self._computed + left)):
            self._expected = (self._seconds * (1 + left / self._computed), self._memory())
        self.tell("block", image=self._source, done=done, blocks=blocks)

    def pyramid(self, done: int, blocks: int) -> None:
        """Note that a block of a pyramid's level was finished."""
        self.tell("block", image=self._source, done=done, blocks=blocks, **{"pass": "pyramid"})

    def finish(self, outcome: Outcome) -> None:
        """Tell which blocks failed, and what the others took against what the first tenth of them promised.

        Time is in seconds; memory is the most that this process held, in bytes.
        """
        for item, reason in outcome.failed:
            self.tell("block_failed", image=self._source, block=list(item.index), reason=reason)
        if self._expected is not None:
            seconds, memory = self._expected
            self.tell(
                "cost",
                image=self._source,
                blocks=self._computed,
                seconds=round(self._seconds, 2),
                expected_seconds=round(seconds, 2),
                memory_bytes=self._memory(),
                expected_memory_bytes=memory,
            )
