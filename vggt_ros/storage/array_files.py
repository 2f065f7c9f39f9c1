"""Reading files that anyone may have put there: regular files only, and only as much as their description allows."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MAX_DESCRIPTION = 1 << 20
"""Most bytes of a description."""


class StorageError(ValueError):
    """A map cannot be saved or loaded; the text names the file, the array and what is wrong with it."""


class ArrayFile:
    """An .npy file whose header is read, but not its values.

    Attributes:
        path: the file.
        shape, dtype: of the array.

    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            StorageError: not a regular file, not an array without pickles, or its length does not fit its header.

        """
        self.path = path
        with open_regular(path) as file:
            try:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                self.shape, self._fortran, self.dtype = read(file)
                expected = self.dtype.itemsize
                for side in self.shape:
                    expected *= side
                if self.dtype.hasobject or min(self.shape, default=0) < 0:
                    raise ValueError("not an array of numbers")
                if expected != os.fstat(file.fileno()).st_size - file.tell():
                    raise ValueError("the length of the file does not fit its header")
                self._start, self.size = file.tell(), expected
            except Exception as error:  # numpy's parser of the header may raise anything
                raise StorageError(f"{path}: {getattr(error, 'strerror', None) or error}") from error

    def read(self) -> np.ndarray:
        """Return the array; raises StorageError if it cannot be read, or has changed meanwhile."""
        with open_regular(self.path) as file:
            try:
                file.seek(self._start)
                data = file.read(self.size)
                flat = np.frombuffer(data, self.dtype)
                values = flat.reshape(self.shape[::-1]).T if self._fortran else flat.reshape(self.shape)
                return np.array(values)
            except (OSError, ValueError, MemoryError) as error:
                raise StorageError(f"{self.path}: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; a pipe would block for ever, a device or a link may lead anywhere.

    Raises:
        StorageError: it is missing, cannot be read, or is something else.

    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        kind = "a link" if path.is_symlink() else ""
        raise StorageError(f"{path}: {f'{kind}, not a file' if kind else error.strerror}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((name for test, name in ((stat.S_ISFIFO, "a pipe"), (stat.S_ISDIR, "a folder"),
                                             (stat.S_ISSOCK, "a socket")) if test(mode)), "a device")
        raise StorageError(f"{path}: {kind}, not a file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def read_text(path: Path) -> str:
    """Return the text of a small regular file; raises StorageError."""
    with open_regular(path) as file:
        data = file.read(MAX_DESCRIPTION + 1)
    if len(data) > MAX_DESCRIPTION:
        raise StorageError(f"{path}: more than {MAX_DESCRIPTION} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise StorageError(f"{path}: not text") from error


def available_memory() -> int:
    """Return how many bytes of memory can be used without swapping; a large number where it is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration, ValueError):
        return 1 << 62


def as_storage_error(error: OSError, path: Path) -> StorageError:
    """Return an error of the operating system as a StorageError that names the file."""
    return StorageError(f"{error.filename or path}: {error.strerror or error}")


def jsonable(value: Any) -> Any:
    """Return a value that json writes: arrays as lists."""
    return value.tolist() if isinstance(value, np.ndarray) else value
