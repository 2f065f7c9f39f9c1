"""Threads that yield to tracking."""

import threading
import time

from vggt_ros.threads import end_priority, prioritize, yield_to_tracking


def seconds_waited() -> float:
    """Return the seconds for which another thread waits in `yield_to_tracking`."""
    spent = []

    def work() -> None:
        began = time.perf_counter()
        yield_to_tracking()
        spent.append(time.perf_counter() - began)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    return spent[0]


def shortest_wait() -> float:
    """Return the least of a few times, since a busy machine may stop a thread for as long at any moment."""
    return min(seconds_waited() for _ in range(5))


def test_other_threads_wait_for_the_prioritized_one_at_most_50_ms():
    """Within `prioritize` a thread waits 50 ms and goes on; after `end_priority`, or outside, it does not wait."""
    assert shortest_wait() < 0.04
    with prioritize():
        assert 0.045 < seconds_waited() < 10
        end_priority()
        assert shortest_wait() < 0.04
    with prioritize():
        assert seconds_waited() > 0.045
    assert shortest_wait() < 0.04


def test_an_exception_ends_the_priority():
    """An exception in the body ends its priority."""
    try:
        with prioritize():
            raise ValueError
    except ValueError:
        pass
    assert shortest_wait() < 0.04
