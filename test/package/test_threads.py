"""Threads that let others go first."""

import threading
import time

from vggt_ros.threads import end_priority, prioritize, yield_to_tracking


def waited() -> float:
    """Return for how many seconds another thread gives way."""
    spent = []

    def work() -> None:
        began = time.perf_counter()
        yield_to_tracking()
        spent.append(time.perf_counter() - began)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    return spent[0]


def test_others_wait_for_the_one_that_goes_first_but_not_for_ever():
    """Within `prioritize` a thread waits 50 ms and goes on; after `end_priority`, or outside, at once."""
    assert waited() < 0.04
    with prioritize():
        assert 0.045 < waited() < 1
        end_priority()
        assert waited() < 0.04
    with prioritize():
        assert waited() > 0.045
    assert waited() < 0.04


def test_who_failed_keeps_nobody_waiting():
    """An exception in the body ends its precedence."""
    try:
        with prioritize():
            raise ValueError
    except ValueError:
        pass
    assert waited() < 0.04
