"""One process at a time writes a folder; readers wait until it is whole."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vggt_ros.storage.array_files import StorageError, as_storage_error

_LOG = logging.getLogger(__name__)
TIMEOUT = 60.0
"""Longest wait for another process, seconds; a map of 2000 keyframes is written in a few."""


@contextmanager
def locked(folder: Path, exclusive: bool, timeout: float = TIMEOUT) -> Iterator[None]:
    """Hold a lock on an existing folder: `exclusive` to write in it, else to read.

    It is advisory (flock), ends with the process whatever ends it, and leaves no file behind.

    Raises:
        StorageError: the folder cannot be opened, or others hold it longer than `timeout` seconds.

    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise as_storage_error(error, folder) from error
    try:
        end = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise StorageError(f"{folder}: another process has been saving or loading a map there for "
                                       f"{timeout:g} s") from None
                time.sleep(0.02)
            except OSError as error:  # a file system without locks
                _LOG.warning("%s: cannot be locked (%s); do not save and load there at the same time", folder,
                             error.strerror)
                break
        yield
    finally:
        os.close(descriptor)
