"""Handling of repeated SIGINT as a single interrupt.

Under `ros2 launch` a process gets SIGINT twice, from the terminal and from launch. The second one would raise
KeyboardInterrupt during the cleanup that the first one started.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
