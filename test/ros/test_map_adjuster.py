"""The map is adjusted on a thread of its own, before it is saved."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")

from vggt_ros.config import Config
from vggt_ros.ros.node.map_adjuster import MapAdjuster
from vggt_ros.worker import Worker


class Steps:
    """An adjustment that takes steps until it may end."""

    def __init__(self):
        self.may_end, self.began = threading.Event(), threading.Event()

    def solve(self, check):
        self.began.set()
        while not self.may_end.wait(0.01):
            check()
        check()


class Map:
    """A map of 20 keyframes of some version, adjusted as often as is counted."""

    def __init__(self):
        self.steps, self.taken, self.config = Steps(), 0, Config()
        self.change(0)

    def change(self, version):
        self.solution = type("Solution", (), {"version": version, "__len__": lambda _: 20})()

    def adjustment(self):
        return self.steps

    def take_adjusted(self, adjustment):
        self.taken += 1
        self.change(self.solution.version + 1)
        return "20 keyframes adjusted at once"


@pytest.fixture
def stage():
    slam = Map()
    worker = Worker(slam, lambda update: None)
    yield SimpleNamespace(slam=slam, worker=worker, adjuster=MapAdjuster(slam, lambda: slam.config, worker.call))
    slam.steps.may_end.set()
    worker.close(5.0)


def test_windows_are_solved_while_the_map_is_adjusted(stage):
    saved = stage.adjuster.call(lambda: stage.slam.taken)
    assert stage.slam.steps.began.wait(5.0)
    assert stage.worker.call(lambda: "a window").result(5.0) == "a window"
    assert stage.adjuster.report.startswith("in progress for") and not saved.done()
    stage.slam.steps.may_end.set()
    assert saved.result(5.0) == 1, "adjusted before it is saved"
    assert stage.adjuster.report.startswith("20 keyframes adjusted at once (")


@pytest.mark.parametrize(("changed", "adjusted"), [(False, 1), (True, 2)])
def test_a_map_that_has_not_changed_is_not_adjusted_again(stage, changed, adjusted):
    stage.slam.steps.may_end.set()
    stage.adjuster.call(lambda: None).result(5.0)
    if changed:
        stage.slam.change(7)
    stage.adjuster.call(lambda: None).result(5.0)
    assert stage.slam.taken == adjusted


def test_two_saves_at_once_wait_for_one_adjustment(stage):
    saves = [stage.adjuster.call(lambda name=name: (name, stage.slam.taken)) for name in ("first", "second")]
    assert stage.slam.steps.began.wait(5.0)
    stage.slam.steps.may_end.set()
    assert [save.result(5.0) for save in saves] == [("first", 1), ("second", 1)]


def test_what_waits_is_done_before_a_reset_and_before_the_end(stage):
    """As it is: a map that takes long to adjust is saved all the same."""
    saved = stage.adjuster.call(lambda: stage.slam.taken)
    assert stage.slam.steps.began.wait(5.0)
    stage.adjuster.close()
    assert stage.worker.close(5.0)
    assert saved.result(0.0) == 0
    assert "ended early" in stage.adjuster.report
    assert not stage.adjuster._thread.is_alive()


def test_a_failure_to_adjust_does_not_cost_the_map(stage):
    def fail(check):
        raise MemoryError("too large")

    stage.slam.steps.solve = fail
    assert stage.adjuster.call(lambda: "saved").result(5.0) == "saved"
    assert "too large" in stage.adjuster.report


def test_an_error_of_the_save_reaches_who_asked_for_it(stage):
    stage.slam.steps.may_end.set()

    def save():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        stage.adjuster.call(save).result(5.0)
