"""The surfaces of two parts of a map are registered, and the covariance says what they leave open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from data_folder import recorded
from scenes import lap
from test_merging import part, solution_of

from vggt_ros.benchmarks.accuracy.merging import merging
from vggt_ros.geometry.poses import Sim3, so3_exp, umeyama
from vggt_ros.geometry.sim3 import inverse, log, to_matrix
from vggt_ros.loops.surface_registration import register_surfaces
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.windows.solution import Solution


def true_unit(record: MapRecord) -> Solution:
    """Return the solution of a record in the frame and the unit of the ground truth."""
    solution = solution_of(record)
    true = {frame.stamp: camera for frame, camera in zip(lap().frames, lap().world_camera, strict=True)}
    world_map = umeyama(solution.map_camera[:, :3, 3], np.array([true[int(s)][:3, 3] for s in solution.stamps]))
    return moved(solution, world_map)


def moved(part: Solution, by: Sim3) -> Solution:
    """Return a part of a map, moved as a whole."""
    return replace(part, map_camera=np.array([by.apply_pose(camera) for camera in part.map_camera]),
                   scale=part.scale * by.scale)


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.25])
def test_a_part_out_of_place_is_brought_back(scale):
    """By 3 degrees, a fifth of the depth, and a fifth of its size, to within the covariance."""
    fixed, own = true_unit(part(0, 60, 1)), true_unit(part(0, 60, 2))
    middle = own.map_camera[:, :3, 3].mean(0)
    rotation = so3_exp(np.radians([1.0, 2.0, -2.0]))
    by = Sim3(scale, rotation, middle + np.array([0.2, -0.1, 0.2]) - scale * rotation @ middle)
    first, second, measurement = register_surfaces(fixed, moved(own, by), 8)
    true = fixed.similarity(fixed.index(first)).inverse() @ own.similarity(own.index(second))
    error = log(inverse(to_matrix(true)[None]) @ to_matrix(measurement.first_second)[None])[0]
    assert np.abs(error[:3]).max() < 0.02 and np.abs(error[3:]).max() < 0.05
    assert error @ np.linalg.solve(measurement.covariance, error) < 24.3


def test_what_is_known_already_is_measured_again_at_the_same_keyframes():
    """So a difference is not spread over what is between them; the measurement is the same, and its certainty."""
    fixed, own = true_unit(part(0, 60, 1)), true_unit(part(0, 60, 2))
    first, second, measurement = register_surfaces(fixed, own, 8)
    known = int(fixed.ids[fixed.row(first) + 3]), int(own.ids[own.row(second) - 3])
    far = int(fixed.ids[0]), int(own.ids[own.row(second) + 9])
    *pair, again = register_surfaces(fixed, own, 8, [far, known])
    assert tuple(pair) == known
    by_pair = to_matrix(fixed.similarity(fixed.row(first)).inverse() @ fixed.similarity(fixed.row(known[0]))
                        @ again.first_second @ own.similarity(own.row(known[1])).inverse()
                        @ own.similarity(own.row(second)))
    assert np.allclose(by_pair, to_matrix(measurement.first_second), atol=1e-3)
    assert again.covariance[6, 6] == pytest.approx(measurement.covariance[6, 6], rel=0.05)


def test_surfaces_without_anything_in_common_are_not_registered():
    fixed, own = true_unit(part(0, 60, 1)), true_unit(part(0, 60, 2))
    assert register_surfaces(fixed, moved(own, Sim3(1.0, np.eye(3), np.array([50.0, 0, 0]))), 8) is None
    assert register_surfaces(fixed, moved(own, Sim3(0.2, np.eye(3), np.zeros(3))), 8) is None  # fits, but is too small


def test_along_a_wall_nothing_is_known():
    """A wall says how far away it is, and how it is turned, but not where along it the part is, nor how large."""
    wall = true_unit(part(0, 60, 1))
    wall = replace(wall, keyframes={k: replace(keyframe, depth=plane(keyframe, wall, row)) for row, (k, keyframe)
                                    in enumerate((int(k), wall.keyframes[int(k)]) for k in wall.ids)})
    first, second, measurement = register_surfaces(wall, wall, 8)
    sigmas = np.sqrt(np.linalg.eigvalsh(measurement.covariance))
    assert sigmas[2] < 0.1 and sigmas[3] > 0.9
    assert log(to_matrix(measurement.first_second)[None]) == pytest.approx(log(to_matrix(
        wall.similarity(wall.index(first)).inverse() @ wall.similarity(wall.index(second)))[None]), abs=0.01)


def plane(keyframe, solution: Solution, row: int) -> np.ndarray:
    """Return the depth of a keyframe if there were nothing but the plane x = -1 of the ground truth."""
    height, width = keyframe.depth.shape
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(keyframe.intrinsics).T
    camera = solution.map_camera[row]
    with np.errstate(divide="ignore"):
        depth = (-1.0 - camera[0, 3]) / (rays @ camera[0, :3]) / solution.scale[row]
    return np.where((depth > 0) & (depth < 20), depth, np.nan).astype(np.float16)


@pytest.mark.slow
def test_halves_of_a_recording_are_as_exact_as_the_whole():
    """They are cut in a fast turn, and few keyframes of the one are found in the other."""
    recorded("hololens_dvmvs_000")
    assert merging(["hololens_dvmvs_000:2"])["hololens_dvmvs_000:2"]["ratio"] < 1.3
