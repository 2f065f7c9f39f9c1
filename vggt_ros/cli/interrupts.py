"""What SIGINT and SIGTERM do to a command line: it ends in order, in one line, and what is done already is kept."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from types import FrameType, ModuleType

INTERRUPTED = 130
"""Exit status after SIGINT, as shells have it: 128 and the number of the signal."""
_BROKEN_PIPE = 141
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Main = Callable[..., int]


class Stop:
    """A wish to end, asked for by SIGINT or SIGTERM.

    Attributes:
        by: the signal, 0 as long as there was none.

    """

    def __init__(self, text: str) -> None:
        """Take the signals from now on; those that are ignored, as SIGINT is in a job in the background, stay so."""
        self.by, self._text = 0, text
        self._before = {number: signal.getsignal(number) for number in _SIGNALS
                        if signal.getsignal(number) != signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._handle)

    def __call__(self) -> bool:
        """Return whether somebody asked for an end."""
        return bool(self.by)

    def close(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.by:
            raise KeyboardInterrupt
        self.by = number
        os.write(2, f"\n{self._text}\n".encode())  # a buffered stream may be in use by what is interrupted


def stoppable(text: str) -> contextlib.closing[Stop]:
    """Take the first SIGINT or SIGTERM as a wish, and say `text` then; the next one raises KeyboardInterrupt."""
    return contextlib.closing(Stop(text))


def ends_in_order(*errors: type[Exception]) -> Callable[[_Main], _Main]:
    """Make a command line end by one line where it is interrupted or one of `errors` is raised, which name their cause.

    Where nobody reads its output, such as behind `| head`, it ends silently.
    """

    def guard(main: _Main) -> _Main:
        prog = inspect.signature(main).parameters["prog"].default

        @functools.wraps(main)
        def guarded(args: list[str] | None = None, prog: str = prog) -> int:
            try:
                status = main(args, prog)
                sys.stdout.flush()
            except KeyboardInterrupt:
                print(f"{prog}: interrupted", file=sys.stderr)
                return INTERRUPTED
            except BrokenPipeError:
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return _BROKEN_PIPE
            except errors as error:
                full = isinstance(error, OSError) and not error.filename and error.strerror  # without the file's name
                print(f"{prog}: {f'a file cannot be written: {full}' if full else error}", file=sys.stderr)
                return 1
            return status

        return guarded

    return guard


def imported(module: str, prog: str) -> ModuleType:
    """Import a module; SIGINT ends the process meanwhile, by one line: nothing has begun, and imports take a second."""
    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, f"{prog}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        return import_module(module)
    signal.signal(signal.SIGINT, end)
    try:
        return import_module(module)
    finally:
        signal.signal(signal.SIGINT, before)
