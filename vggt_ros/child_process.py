"""A Python process that runs one function, which gets a connection to this process.

It has an interpreter of its own, as one that `multiprocessing` spawns. But it does not import the main module again,
which for the node means rclpy and gtsam (half a second and 50 MB), and needs no process that tracks resources.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

from vggt_ros.native_stderr import real_stderr


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
        spawned = _take_spare(connections) or _Spawned(connections)
        self._process, (self._start, *self.connections) = spawned.process, spawned.ends
        self.pid = self._process.pid
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


def send_arrays(connection: Connection, value: Any) -> None:
    """Send an object whose arrays are large, for `receive_arrays` at the other end.

    `Connection.send` copies them to one text of bytes, during which no other thread runs: 20 ms for a window of images.
    """
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    connection.send((text, [view.nbytes for view in views]))
    for view in views:
        connection.send_bytes(view)


def receive_arrays(connection: Connection) -> Any:
    """Return the object that `send_arrays` has sent; raises as `Connection.recv`."""
    text, sizes = connection.recv()
    buffers = [bytearray(size) for size in sizes]  # not bytes, of which arrays could not be changed
    for buffer in buffers:
        connection.recv_bytes_into(buffer)
    return pickle.loads(text, buffers=buffers)


def prepare_spare(connections: int, modules: Sequence[str]) -> None:
    """Start a process for the next `ChildProcess` with so many connections, which imports modules meanwhile."""
    _spare[:] = [_Spawned(connections, modules)]


def _take_spare(connections: int) -> _Spawned | None:
    """Return the process that was prepared, if there is one that fits; it serves once."""
    spawned = _spare.pop() if _spare else None
    return spawned if spawned and len(spawned.ends) == connections + 1 and spawned.process.poll() is None else None


class _Spawned:
    """A process that waits for its function.

    Attributes:
        process: itself.
        ends: our ends of its connections; the function is sent over the first, and the process ends when it is closed.

    """

    def __init__(self, connections: int, modules: Sequence[str] = ()) -> None:
        pairs = [Pipe() for _ in range(connections + 1)]
        given = [theirs.fileno() for _, theirs in pairs]
        code = (f"import sys; sys.path[:] = {sys.path!r}; from vggt_ros.child_process import main; "
                f"main({given}, {list(modules)})")
        # An interrupt from the terminal is for this process, which then ends the other; the mask is inherited.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with real_stderr() as stderr:
                self.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=given,
                                                stderr=stderr)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self.ends = [ours for ours, _ in pairs]
        for _, theirs in pairs:  # so that the end of the process closes the connections
            theirs.close()


_spare: list[_Spawned] = []
"""The process that was prepared, if any."""


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def main(descriptors: Sequence[int], modules: Sequence[str]) -> None:
    """Run the function that comes over the first of these file descriptors; in the new process."""
    for name in modules:
        importlib.import_module(name)
    start, *connections = (Connection(descriptor) for descriptor in descriptors)
    try:
        function, arguments = start.recv()
    except (EOFError, OSError):  # it was not needed
        return
    threading.Thread(target=_exit_with_parent, args=(start,), daemon=True).start()
    function(*connections, *arguments)


def _exit_with_parent(start: Connection) -> None:
    """End this process when the other one has ended; it would wait for requests forever."""
    try:
        start.recv()
    except (EOFError, OSError):
        os._exit(1)
