"""A calibration that the images contradict is one of the node's problems, until the map is cleared."""

from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")

from vggt_ros.reconstruction.adjustment.calibration_check import CalibrationCheck
from vggt_ros.ros.outputs.diagnostics import StatusMonitor
from vggt_ros.windows.solution import Update


def test_a_refused_window_does_not_take_it_back():
    nothing: Any = None
    monitor = StatusMonitor(nothing, nothing, nothing, nothing, nothing)
    monitor.problems = lambda: monitor.contradictions
    wrong = Update(0, (1, 2), 0, report=CalibrationCheck(-0.1, 0.0, 2000.0, 2).report)
    right = Update(2, (1, 2), 0, report=CalibrationCheck(-0.01, 0.0, 4000.0, 4).report)
    monitor.record_update(wrong)
    assert ["0.90 times" in problem for problem in monitor.new_problems(True)] == [True]
    monitor.record_update(Update(1, (), 0, "no parallax"))
    assert len(monitor.contradictions) == 1 and monitor.new_problems(True) == []
    monitor.record_update(right)
    assert monitor.contradictions == []
    monitor.record_update(wrong)
    monitor.clear()
    assert monitor.contradictions == []
