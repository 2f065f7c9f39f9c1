"""Handling of repeated SIGINT as a single interrupt, and of an end that takes too long.

Under `ros2 launch` a process gets SIGINT twice, from the terminal and from launch. The second one would raise
KeyboardInterrupt during the cleanup that the first one started. And after five seconds launch escalates to SIGTERM.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from vggt_ros.native_stderr import real_stderr
from vggt_ros.process_info import children


@contextmanager
def single_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt in the body at the first SIGINT and suppress it at the end; ignore further ones.

    Enter it before `rclpy.init`, whose handler calls the handler that was installed before. Afterwards SIGINT stays
    ignored, while the interpreter exits.
    """
    interrupted = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def bounded_end(seconds: float) -> Iterator[None]:
    """End the process `seconds` after SIGINT or SIGTERM if it has not ended by then, whatever hangs in the body.

    What hangs afterwards, while the interpreter ends, is bounded, too: threads of Python do not run then, so that the
    watchdog of faulthandler takes over, which also prints where it hangs.

    A thread waits for the signal's number, which Python's C handler writes to a pipe at once: its Python handler would
    run only when the main thread returns from a call into C. Enter it before `rclpy.init`.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # so that Python sees it; rclpy shuts down by itself
    previous = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    ended, deadline = threading.Event(), list[float]()

    def watch() -> None:
        while (number := os.read(read, 1)) and number[0] not in (signal.SIGINT, signal.SIGTERM):
            pass
        if number:
            deadline.append(time.monotonic() + seconds)
        if number and not ended.wait(seconds):
            with real_stderr() as stderr, suppress(OSError):  # whatever the main thread does
                os.write(2 if stderr is None else stderr,
                         f"the node has not ended {seconds:g} s after the signal; the process is ended\n".encode())
            for child in children(os.getpid()):  # one that is stopped would not see that we have ended
                os.kill(child, signal.SIGKILL)
            os._exit(1)

    thread = threading.Thread(target=watch, name="bounded_end", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(previous)
        os.close(write)  # ends the thread
        thread.join(1.0)
        if deadline:
            faulthandler.dump_traceback_later(max(deadline[0] - time.monotonic(), 0.1), exit=True)
