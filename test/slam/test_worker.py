"""The worker: order, back-pressure, commands, errors, shutdown."""

import threading

import pytest
from scenes import lap

from vggt_ros.config import Config
from vggt_ros.slam import Slam
from vggt_ros.synthetic import SceneReconstructor
from vggt_ros.worker import Worker


class Blocking(SceneReconstructor):
    """Waits for an event before it answers, and fails on request."""

    def reconstruct(self, window):
        self.started.set()
        assert self.released.wait(20)
        if self.fail:
            raise RuntimeError("out of luck")
        return super().reconstruct(window)


@pytest.fixture(name="scene")
def _scene():
    sequence = lap()
    oracle = sequence.oracle(Blocking)
    oracle.started, oracle.released, oracle.fail = threading.Event(), threading.Event(), False
    slam = Slam(Config().replace({"windows.max_waiting": 1}), oracle)
    updates, errors = [], []
    worker = Worker(slam, updates.append, errors.append)
    yield sequence, slam, oracle, worker, updates, errors
    oracle.released.set()
    worker.close()


def windows(sequence, slam, count):
    """Yield the first `count` windows of a sequence."""
    for frame in sequence.frames:
        window = slam.track(frame).window
        if window is not None:
            yield window
            count -= 1
        if not count:
            return


def test_windows_are_solved_in_order_and_counted_while_they_wait(scene):
    """`backlog` says that it is busy, and how many are queued; none is dropped even then."""
    sequence, slam, oracle, worker, updates, errors = scene
    first, second, third = windows(sequence, slam, 3)
    assert not worker.backlog.busy
    assert worker.idle
    worker.enqueue(first)
    assert oracle.started.wait(10)
    assert worker.backlog.busy and worker.backlog.waiting == 0
    worker.enqueue(second)
    assert worker.backlog.waiting == 1
    worker.enqueue(third)
    assert worker.waiting == 2
    assert not worker.idle
    oracle.released.set()
    assert worker.call(lambda: "done").result(20) == "done"
    assert [u.window for u in updates] == [0, 1, 2]
    assert worker.waiting == 0
    assert len(slam.solution) == 18
    assert not errors


def test_reset_during_a_reconstruction_leaves_nothing_of_the_old_map(scene):
    """The window in progress ends, the queued ones are skipped, and the new map is empty."""
    sequence, slam, oracle, worker, updates, _ = scene
    first, second = windows(sequence, slam, 2)
    worker.enqueue(first)
    assert oracle.started.wait(10)
    worker.enqueue(second)
    done = worker.reset()
    oracle.released.set()
    done.result(20)
    assert "reset" in updates[-1].refused
    assert len(slam.solution) == 0
    assert slam.counts.keyframes == 0
    new = next(windows(sequence, slam, 1))
    assert new.ids[0] > second.ids[-1]
    worker.enqueue(new)
    worker.call(lambda: None).result(20)
    assert slam.solution.ids.tolist() == list(new.ids)


def test_an_error_is_reported_and_the_thread_goes_on(scene):
    """An error in a reconstructor costs a window, not the node."""
    sequence, slam, oracle, worker, updates, errors = scene
    first, second = windows(sequence, slam, 2)
    oracle.fail = True
    oracle.released.set()
    worker.enqueue(first)
    worker.call(lambda: None).result(20)
    assert [str(e) for e in errors] == ["out of luck"]
    oracle.fail = False
    worker.enqueue(second)
    worker.call(lambda: None).result(20)
    assert [u.window for u in updates] == [second.id]


def test_commands_return_their_result_or_their_error(scene):
    """A command that fails raises in its future; after the shutdown commands are rejected."""
    worker = scene[3]
    assert worker.call(threading.get_ident).result(10) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 / 0).result(10)
    worker.close()
    worker.close()
    with pytest.raises(RuntimeError, match="closed"):
        worker.call(lambda: None).result(10)


def test_the_end_waits_for_the_window_being_solved_only(scene):
    """Ctrl-C must not take as long as all that is queued: launch kills processes after ten seconds."""
    sequence, slam, oracle, worker, updates, errors = scene
    first, second = windows(sequence, slam, 2)
    worker.enqueue(first)
    assert oracle.started.wait(10)
    worker.enqueue(second)
    command = worker.call(lambda: "done")
    threading.Timer(0.2, oracle.released.set).start()
    worker.close()
    assert [u.window for u in updates] == [first.id] and command.result(0) == "done"
    assert not errors and worker.idle
