"""The exception tree: what went wrong, what was expected, what to do next.

Every error a person can meet subclasses :class:`FewsliceError`, carries one sentence as its message and the exit code
with which the command line ends.
"""

from __future__ import annotations

__all__ = ["DiskError", "FewsliceError", "InputError", "PartialError"]


class FewsliceError(Exception):
    """Something failed that the user can act upon.

    The message is one sentence: what happened, what was found, what was expected, what to do next.
    """

    exit_code = 1


class InputError(FewsliceError, ValueError):
    """The input or the request cannot be used as it is; nothing was changed on disk."""

    exit_code = 2


class DiskError(FewsliceError, OSError):
    """The disk refused to store the result."""

    exit_code = 1


class PartialError(FewsliceError):
    """Some blocks could not be done; what is done is kept and the same command resumes."""

    exit_code = 3
