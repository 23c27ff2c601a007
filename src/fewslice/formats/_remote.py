"""Stores at addresses such as ``s3://bucket/image.ome.zarr``: a path that reads like a local one, through fsspec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewslice.errors import InputError

__all__ = ["check_reachable", "is_remote", "open_remote_array", "place_of", "refused"]


def is_remote(path: str) -> bool:
    """Whether a path is an address."""
    return "://" in path


def place_of(path: str) -> Path:
    """Return a path, local or remote, with the methods of :class:`pathlib.Path` that reading needs.

    Raises
    ------
    InputError
        If the libraries for addresses, or for this kind of address, are not installed.
    """
    if not is_remote(path):
        return Path(path)
    try:
        from upath import UPath

        remote: Any = UPath(path)
        _ = remote.fs
    except (ImportError, ValueError) as error:
        raise InputError(f"{path} cannot be opened ({error}); pip install 'fewslice[remote]', or copy it") from error
    return remote  # type: ignore[no-any-return]


def check_reachable(path: str) -> None:
    """Refuse an address that does not hold a Zarr store, or may not be read: its metadata are fetched to find out.

    Raises
    ------
    InputError
        In one sentence.
    """
    place: Any = place_of(path)
    for name in ("zarr.json", ".zgroup", ".zarray"):
        try:
            place.fs.cat_file((place / name).path)
            return
        except FileNotFoundError:
            continue
        except Exception as error:  # each kind of address raises its own
            raise refused(path, error) from error
    raise InputError(f"{path} is not a Zarr store: it has neither zarr.json nor .zgroup; check the address")


def open_remote_array(folder: Any, zarr_format: int) -> Any:
    """Open a Zarr array at an address for reading, over the connections that read its metadata."""
    import zarr
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from zarr.storage import FsspecStore

    store = FsspecStore(AsyncFileSystemWrapper(folder.fs, asynchronous=True), read_only=True, path=folder.path)
    return zarr.open_array(store, mode="r", zarr_format=3 if zarr_format == 3 else 2)


def refused(path: str, error: Exception) -> InputError:
    """Say in one sentence why an address cannot be read."""
    name, text = type(error).__name__, str(error)
    if isinstance(error, PermissionError) or "Credential" in name or "AccessDenied" in text or "Forbidden" in text:
        reason = (
            "there are no credentials that may read it; set them up as for other programs, or allow reading without"
        )
    else:
        reason = f"{text.splitlines()[0][:150] if text else name}; check the address and the connection"
    return InputError(f"{path} cannot be read: {reason}")
