"""A Python process that runs one function, which gets a connection to this process.

It has an interpreter of its own, as one that `multiprocessing` spawns. But it does not import the main module again,
which for the node means rclpy and gtsam (half a second and 50 MB), and needs no process that tracks resources.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any


class ChildProcess:
    """Runs a function in a process, until it returns or this process ends, however that ends.

    Attributes:
        connections: to the function, which gets the other ends as its first arguments.
        pid: of the process.

    """

    def __init__(self, function: Callable[..., None], arguments: Sequence[Any], connections: int = 1) -> None:
        """Start the process.

        Args:
            function: what runs in it; of a module other than the main one, since it is sent by its name.
            arguments: its arguments after the connections; they are pickled.
            connections: number of connections.

        """
        pairs = [Pipe() for _ in range(connections + 1)]
        self._start, *self.connections = (ours for ours, _ in pairs)  # the child ends when the first is closed
        given = [theirs.fileno() for _, theirs in pairs]
        code = (f"import sys; sys.path[:] = {sys.path!r}; from vggt_ros.reconstruction.child_process import main; "
                f"main({given})")
        self._process = subprocess.Popen([sys.executable, "-c", code],
                                         stdin=subprocess.DEVNULL, pass_fds=given)
        self.pid = self._process.pid
        for _, theirs in pairs:  # so that the end of the process closes the connections
            theirs.close()
        weakref.finalize(self, _kill, self._process)  # also when the interpreter ends
        self._start.send((function, tuple(arguments)))

    @property
    def exitcode(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs."""
        return self._process.poll()

    def join(self, timeout: float) -> None:
        """Wait for the end of the process, at most `timeout` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    def kill(self) -> None:
        """Kill the process if it still runs, and wait for its end."""
        _kill(self._process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def main(descriptors: Sequence[int]) -> None:
    """Run the function that comes over the first of these file descriptors; in the new process."""
    start, *connections = (Connection(descriptor) for descriptor in descriptors)
    function, arguments = start.recv()
    threading.Thread(target=_exit_with_parent, args=(start,), daemon=True).start()
    function(*connections, *arguments)


def _exit_with_parent(start: Connection) -> None:
    """End this process when the other one has ended; it would wait for requests forever."""
    try:
        start.recv()
    except (EOFError, OSError):
        os._exit(1)
