"""One Ctrl-C is one interrupt, however often it is delivered.

Under `ros2 launch` a process gets SIGINT twice, from the terminal and from launch; the second one would raise
KeyboardInterrupt in the middle of the clean-up that the first one began.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def single_interrupt() -> Iterator[None]:
    """Let the first SIGINT raise KeyboardInterrupt inside, which ends it in order; those that follow do nothing.

    To be entered before `rclpy.init`, whose own handler calls the one that it finds. SIGINT stays ignored afterwards,
    while the interpreter ends.
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
