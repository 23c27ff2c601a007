"""What a block-wise verb gives to the engine: a value of paths and numbers that opens the work to be done per block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fewslice.geometry import Block

__all__ = ["BlockFailure", "Job", "Note", "Opened", "Plan", "Work", "how_to_mend"]

Note = Mapping[str, Any]
"""What a block's mark says besides where it lies: JSON values, such as the checksums of what was written."""


class BlockFailure(Exception):
    """A block cannot be done; the reason is its message and the others go on.

    Parameters
    ----------
    reason
        One clause for the report.
    may_pass
        Whether another attempt may succeed: yes for a disk or network that did not answer, no for bad data.
    """

    def __init__(self, reason: str, *, may_pass: bool = False) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


def how_to_mend(what: str) -> str:
    """Return the clause that says how a job goes on whose blocks failed, `what` being its input, such as ``image``."""
    return (
        f"the same command tries again, but a mended {what} counts as another one, so pass --overwrite after mending it"
    )


@dataclass(frozen=True)
class Work:
    """What is done per block.

    Attributes
    ----------
    read
        Load what a block needs. Called for one block while another is computed, in another thread.
    compute
        Turn what was read into a result.
    write
        Store the result, and return what is to be noted with the mark, or None.
    """

    read: Callable[[Block], Any]
    compute: Callable[[Block, Any], Any]
    write: Callable[[Block, Any], Note | None]


class Job(Protocol):
    """The work on all blocks of one output.

    A frozen, hashable dataclass of paths and numbers that pickles small: engines send it to other processes, each of
    which opens it once and keeps what it opened (a model, files) for all its blocks.
    """

    def open(self) -> Work:
        """Open files and models and return the work."""
        ...

    def __hash__(self) -> int:
        """Tell jobs apart."""
        ...


@dataclass(frozen=True)
class Opened:
    """A job that is open already and cannot leave this process, such as one on arrays in memory."""

    work: Work

    def open(self) -> Work:
        """Return the work."""
        return self.work


class Plan(Protocol):
    """Blocks, of which there may be too many for a list; a list of blocks is one, and :class:`BlockGrid`."""

    def __len__(self) -> int:
        """Return the number of blocks."""
        ...

    def __iter__(self) -> Iterator[Block]:
        """Yield them in order."""
        ...
