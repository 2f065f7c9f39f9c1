"""Bounds on the accuracy that docs/measurements/accuracy.md states; `benchmark accuracy` measures it. A slow test."""

from __future__ import annotations

import pytest
from data_folder import recorded

from vggt_ros.benchmarks.recordings import load
from vggt_ros.config import Config
from vggt_ros.replay.output import report
from vggt_ros.replay.run import run

LIMITS = {"demo_room": (0.167, 0.95), "tum_fr1_xyz": (0.03, 0.95), "euroc_mh01_start": (0.05, 0.95),
          "kitti07_first160": (1.5, 0.95), "hololens_dvmvs_000": (0.60, 0.80)}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
def test_trajectory_error(name):
    if name != "demo_room":
        recorded(name)
    error, covered = LIMITS[name]
    figures = report(run(load(name), Config()))
    assert figures["ate_rmse_m"] <= error
    assert figures["coverage"] >= covered
    assert figures["images_per_keyframe"] <= 6 or figures["keyframes"] >= figures["path_m"]
