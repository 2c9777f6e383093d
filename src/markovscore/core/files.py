"""Paths that users give, files and folders that are whole or absent."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def user_path(path: Any, name: str = "path") -> Path:
    """``path`` with ``~`` and ``~user`` written out.

    Raises:
        TypeError: not a path.
        ValueError: ``~user`` for a user who has no home folder.
    """
    try:
        return Path(path).expanduser()
    except TypeError as error:
        raise TypeError(
            f"{name}: expected a path, found {type(path).__name__}: pass a str or a pathlib.Path"
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"{name}: expected a home folder for {os.fspath(path)!r}, found none ({error}): write "
            "the path out"
        ) from error


def output_path(path: Any, name: str) -> Path:
    """:func:`user_path` of a file that will be written: its folder is made.

    For what is written at the end of long work: better refused before it.

    Raises:
        ValueError: a folder is in its place.
        OSError: its own folder cannot be made or written.
    """
    path = user_path(path, name)
    if path.is_dir():
        raise ValueError(
            f"{name}: expected the path of a file, found the folder {path}: add a file's name"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"{name}: expected a folder that can be made, found {path.parent} ({error.strerror}): "
            "pass another path"
        ) from error
    if not os.access(path.resolve().parent, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{name}: expected a folder that can be written, found {path.parent} without the "
            "permission: pass another path"
        )
    return path


def write_whole(path: Path, content: bytes | str) -> None:
    """Replace ``path`` by ``content``, which survives an interruption at any moment whole, or the
    file before does: a temporary file in the same folder, brought to the disk, then renamed.

    The mode is that of any new file (the process's umask); a link is followed.
    """
    path = path.resolve()
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _bring_to_disk(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write files in, which becomes ``path`` at the end, or is gone if that is not
    reached; ``path`` must not exist. One process at a time: the caller holds a lock. What one that
    was killed has left is removed by the next.
    """
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for written in (*partial.iterdir(), partial):
            _bring_to_disk(written)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _bring_to_disk(path.parent)


def _bring_to_disk(path: Path) -> None:
    """A file that was written and closed, or the names in a folder."""
    try:
        place = os.open(path, os.O_RDONLY)
    except OSError:  # some systems cannot open a folder
        if path.is_dir():
            return
        raise
    try:
        os.fsync(place)
    except OSError:  # nor all bring one to the disk
        if not path.is_dir():
            raise
    finally:
        os.close(place)
