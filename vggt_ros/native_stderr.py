"""What C libraries write to stderr by themselves, a line for each damaged input, however fast they come.

libjpeg, OpenCV's decoders and the deserialization of messages do that, and nothing in Python can tell them not to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import threading
from collections.abc import Iterator

_NOISE = (b"Corrupt JPEG data", b"Premature end of JPEG file", b"Invalid SOS parameters", b"Inconsistent progression",
          b"Unsupported marker type", b"Unknown Adobe color transform", b"Warning: unknown JFIF", b"libpng warning",
          b"libpng error", b" global grfmt_", b" global loadsave.cpp",
          b"sequence size exceeds remaining buffer", b"array size exceeds upper bound")
"""What these lines contain."""


class _Redirection:
    """Lets stderr go to a file in memory while at least one thread asks for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._users, self._real, self._held, self._read = 0, -1, -1, 0

    def begin(self) -> None:
        """Begin to hold back; raises OSError if there is no stderr."""
        with self.lock:
            if self._held < 0:
                self._held = os.memfd_create("vggt_ros_stderr")
                fcntl.fcntl(self._held, fcntl.F_SETFL, os.O_APPEND)  # else threads overwrite what others write
            if not self._users:
                self._real = os.dup(2)
                os.dup2(self._held, 2)
            self._users += 1

    def end(self) -> list[str]:
        """Return the lines of the libraries so far, and write everything else where it belongs."""
        with self.lock:
            self._users -= 1
            if not self._users:
                os.dup2(self._real, 2)
            size = os.fstat(self._held).st_size
            text = os.pread(self._held, size - self._read, self._read) if size > self._read else b""
            if self._users:  # the last line may still be written
                text = text[:text.rfind(b"\n") + 1]
            self._read += len(text)
            if not self._users and size:  # nobody else writes to it
                os.ftruncate(self._held, 0)
                self._read = 0
            noise, rest, is_noise = list[str](), b"", False
            for line in text.splitlines(keepends=True):
                if any(part in line for part in _NOISE):
                    noise.append(line.decode(errors="replace").strip())
                    is_noise = True
                elif line.strip() or not is_noise:  # OpenCV leaves an empty line behind some of them
                    rest += line
                    is_noise = False
            if rest:
                os.write(self._real, rest)
            if not self._users:
                os.close(self._real)
        return noise

    def duplicate(self) -> int:
        """Return a new descriptor of the real stderr."""
        with self.lock:
            return os.dup(self._real if self._users else 2)


_redirection = _Redirection()


@contextlib.contextmanager
def held_back() -> Iterator[list[str]]:
    """Hold back what C libraries write to stderr while the body runs; the list has their lines afterwards.

    What other code writes meanwhile comes after the body. Linux only; elsewhere nothing is held back.
    """
    lines, begun = list[str](), False
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # there is no stderr
            _redirection.begin()
            begun = True
    try:
        yield lines
    finally:
        if begun:
            lines += _redirection.end()


@contextlib.contextmanager
def real_stderr() -> Iterator[int | None]:
    """Give a descriptor of stderr for a child process, which would else inherit what is held back for the moment."""
    try:
        descriptor = _redirection.duplicate()
    except OSError:  # there is no stderr
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
