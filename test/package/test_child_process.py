"""A process that was started ahead serves the next function, once."""

import os
import signal
from multiprocessing.connection import Connection

import numpy as np

from vggt_ros.child_process import ChildProcess, _spare, prepare_spare, receive_arrays, send_arrays


def answer(connection: Connection, word: str) -> None:
    """Send a word, the id of the process, and whether it has imported csv before."""
    import sys
    connection.send((word, os.getpid(), "csv" in sys.modules))


def call(word: str) -> tuple[str, int, bool]:
    """Return what a process answers."""
    process = ChildProcess(answer, (word,))
    found: tuple[str, int, bool] = process.connections[0].recv()
    process.join(20)
    assert process.exitcode == 0
    return found


def test_a_spare_process_serves_once_and_has_imported_meanwhile() -> None:
    prepare_spare(1, ["csv"])
    spare = _spare[0].process.pid
    os.kill(spare, 0)
    assert call("first") == ("first", spare, True)
    word, other, _ = call("second")
    assert word == "second" and other != spare


def test_a_spare_process_that_does_not_fit_or_has_ended_is_not_used() -> None:
    prepare_spare(3, ["csv"])
    unfit = _spare[0].process
    assert call("fits")[1] != unfit.pid
    assert unfit.wait(20) == 0  # its connections were closed
    prepare_spare(1, ["csv"])
    ended = _spare[0].process
    ended.send_signal(signal.SIGKILL)
    ended.wait(20)
    assert call("again")[1] != ended.pid


def test_an_interrupt_does_not_end_it() -> None:
    prepare_spare(1, ["csv"])
    spare = _spare[0].process
    spare.send_signal(signal.SIGINT)
    assert call("still here")[1] == spare.pid


def double(connection: Connection) -> None:
    """Change the arrays of what comes, in place, and send it back."""
    value = receive_arrays(connection)
    for array in value["arrays"]:
        array *= 2
    send_arrays(connection, value)


def test_arrays_arrive_whole_and_can_be_changed() -> None:
    """Larger than a pipe, not contiguous, empty, and the same array twice."""
    large = np.arange(3_000_000, dtype=np.int32).reshape(1000, 3000)
    arrays = [large, large[:, ::3], np.zeros((0, 4)), np.full((), 1.5), np.asfortranarray(large[:20])]
    process = ChildProcess(double, ())
    send_arrays(process.connections[0], {"arrays": arrays, "rest": ("word", None), "same": (large, large)})
    found = receive_arrays(process.connections[0])
    process.join(20)
    for one, other in zip(found["arrays"], arrays, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one, 2 * other)
    assert found["rest"] == ("word", None) and found["same"][0] is found["same"][1] is found["arrays"][0]
