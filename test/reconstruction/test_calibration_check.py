"""The images contradict a wrong calibration, and no right one: exact geometry with noise of a third of a pixel."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from vggt_ros.geometry.poses import so3_exp
from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions, Scene
from vggt_ros.reconstruction.adjustment.calibration_check import CalibrationCheck, contradiction
from vggt_ros.reconstruction.adjustment.lens import distorted
from vggt_ros.reconstruction.adjustment.triangulation import triangulate_and_adjust
from vggt_ros.replay.advice import contradicted_calibration
from vggt_ros.windows.solution import Update

FOCAL = 400.0


def checked(factor: float, radial: float, turn: float, sideways: float, windows: int = 2) -> CalibrationCheck:
    """Return the check after windows of a camera with `factor` times the focal length of its calibration.

    Each window is solved with the calibration before. The camera turns by `turn` radians between keyframes.
    """
    check = CalibrationCheck()
    for seed in range(windows):
        rng = np.random.default_rng(seed)
        rotation = np.array([so3_exp(np.array([0.3, 1.0, 0.1]) * turn * (i - 3.5)) for i in range(8)])
        centers = np.outer(np.arange(8) - 3.5, [sideways, 0.1 * sideways, 0.2])
        z = rng.uniform(3, 9, 300)
        points = np.stack([rng.uniform(-0.7, 0.7, 300) * z, rng.uniform(-0.5, 0.5, 300) * z, z], 1)
        true = Scene(rotation, -np.einsum("sij,sj->si", rotation, centers), points, np.full((8, 2), factor * FOCAL))
        observations = true.residuals(np.zeros((300, 8, 2)))
        visible = (np.abs(observations) < [320.0, 240.0]).all(-1)
        observations = distorted(observations, true.focal, radial) + rng.normal(0, 0.3, observations.shape)
        observations, registered = np.where(visible[..., None], observations, 0.0), np.ones(8, bool)
        start = replace(true, focal=np.full((8, 2), FOCAL))
        solved, _ = triangulate_and_adjust(start, observations, visible, registered, 0, AdjustmentOptions(20))
        check = check.updated(solved, observations, visible, registered, 0.0)
    return check


@pytest.mark.parametrize(("factor", "radial", "sentence"), [
    (1.0, 0.0, ""),
    (1.03, -0.03, ""),
    (0.9, 0.0, "0.90 times its focal length; calibrate"),
    (1.3, 0.0, "1.30 times its focal length; calibrate"),
    (1.0, 0.2, "more barrel distortion; calibrate"),
    (1.0, -0.15, "more pincushion distortion; calibrate"),
])
def test_only_a_wrong_calibration_is_contradicted(factor: float, radial: float, sentence: str) -> None:
    check = checked(factor, radial, 0.05, 0.3)
    assert check.log_focal == pytest.approx(np.log(factor), abs=0.01)
    assert check.radial == pytest.approx(radial, abs=0.01)
    text = contradiction(check.report)
    assert sentence in text and bool(text) == bool(sentence)


def test_a_straight_drive_says_nothing_and_one_window_is_not_enough() -> None:
    assert checked(0.8, 0.0, 0.0, 0.0).windows == 0
    once = checked(0.8, 0.0, 0.05, 0.3, windows=1)
    assert once.windows == 1 and not once.is_contradicted and not contradiction({})


def test_replay_tells_what_the_last_solved_window_knows() -> None:
    wrong, right = (CalibrationCheck(off, 0.0, 2000.0, 2).report for off in (0.2, 0.01))
    for reports, told in (((right, wrong, {}), True), ((wrong, right), False), (({},), False), ((), False)):
        run = SimpleNamespace(updates=[Update(i, (), 0, report=report) for i, report in enumerate(reports)])
        assert bool(contradicted_calibration(cast(Any, run))) == told
