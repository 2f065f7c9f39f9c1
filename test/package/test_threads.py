"""Threads that let others go first."""

import threading
import time

from vggt_ros.threads import give_way, going_first, let_others_go


def waited() -> float:
    """Return for how many seconds another thread gives way."""
    spent = []

    def work() -> None:
        began = time.perf_counter()
        give_way()
        spent.append(time.perf_counter() - began)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    return spent[0]


def test_others_wait_for_the_one_that_goes_first_but_not_for_ever():
    """Within `going_first` a thread waits 50 ms and goes on; after `let_others_go`, or outside, at once."""
    assert waited() < 0.04
    with going_first():
        assert 0.045 < waited() < 1
        let_others_go()
        assert waited() < 0.04
    with going_first():
        assert waited() > 0.045
    assert waited() < 0.04


def test_who_failed_keeps_nobody_waiting():
    """An exception in the body ends its precedence."""
    try:
        with going_first():
            raise ValueError
    except ValueError:
        pass
    assert waited() < 0.04
