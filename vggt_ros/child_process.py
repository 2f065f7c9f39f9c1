"""A Python process that runs one function, which gets a connection to this process.

It has an interpreter of its own, as one that `multiprocessing` spawns. But it does not import the main module again,
which for the node means rclpy and gtsam (half a second and 50 MB), and needs no process that tracks resources. One that
is prepared before there are other threads is forked.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
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
        waiting = _take_spare(connections) or _Waiting(connections, _spawn)
        self._process, (self._start, *self.connections) = waiting.process, waiting.ends
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
    """Import modules, and start a process for the next `ChildProcess` with so many connections that has them, too.

    On Linux it is a copy of this process, which may have no other threads yet. Both share the memory of what is
    imported: 14 MB of NumPy, OpenCV and this package.
    """
    for name in modules:
        importlib.import_module(name)
    _spare[:] = [_Waiting(connections, _fork if sys.platform == "linux" else _spawn)]


def _take_spare(connections: int) -> _Waiting | None:
    """Return the process that was prepared, if there is one that fits; it serves once."""
    waiting = _spare.pop() if _spare else None
    return waiting if waiting and len(waiting.ends) == connections + 1 and waiting.process.poll() is None else None


class _Waiting:
    """A process that waits for its function.

    Attributes:
        process: itself.
        ends: our ends of its connections; the function is sent over the first, and the process ends when it is closed.

    """

    def __init__(self, connections: int, start: Callable[[list[Connection], list[Connection]], _Process]) -> None:
        pairs = [Pipe() for _ in range(connections + 1)]
        self.ends, theirs = [ours for ours, _ in pairs], [theirs for _, theirs in pairs]
        # An interrupt from the terminal is for this process, which then ends the other; the mask is inherited.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = start(self.ends, theirs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for end in theirs:  # so that the end of the process closes the connections
            end.close()


def _spawn(ours: list[Connection], theirs: list[Connection]) -> _Process:
    given = [end.fileno() for end in theirs]
    code = f"import sys; sys.path[:] = {sys.path!r}; from vggt_ros.child_process import main; main({given})"
    with real_stderr() as stderr:
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, pass_fds=given, stderr=stderr)


def _fork(ours: list[Connection], theirs: list[Connection]) -> _Process:
    gc.freeze()  # a collection writes to all objects, and what is written is no longer shared
    if pid := os.fork():
        return _Forked(pid)
    status = 1
    try:
        for end in ours:
            end.close()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _serve(theirs)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


class _Forked:
    """A process that was forked, with what is used of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid, self._lock = pid, threading.Lock()
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        with self._lock:
            if self._status is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                self._status = os.waitstatus_to_exitcode(status) if ended else None
            return self._status

    def wait(self, timeout: float = float("inf")) -> int:
        """Return the exit status once it has ended; raises subprocess.TimeoutExpired after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked process", timeout)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


_Process = subprocess.Popen[bytes] | _Forked
_spare: list[_Waiting] = []
"""The process that was prepared, if any."""


def _kill(process: _Process) -> None:
    process.kill()
    process.wait()


def main(descriptors: Sequence[int]) -> None:
    """Run the function that comes over the first of these file descriptors; in a process that was spawned."""
    _serve([Connection(descriptor) for descriptor in descriptors])


def _serve(ends: Sequence[Connection]) -> None:
    start, *connections = ends
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
