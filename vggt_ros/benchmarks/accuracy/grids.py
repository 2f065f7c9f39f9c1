"""benchmark grid: the occupancy grid against the one that a depth camera and the true poses give.

Both grids are made by the same ray casting, in meters, in a frame whose z axis points up and is 0 on the floor. Of the
true one, cells that are not known are not judged.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence as Names
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.arguments import add_settings
from vggt_ros.benchmarks.accuracy.maps import add_sequences, replay_each
from vggt_ros.config import Config
from vggt_ros.evaluation.errors import EvaluationError, align, associate
from vggt_ros.evaluation.map_errors import camera_points
from vggt_ros.geometry.poses import Array, pose
from vggt_ros.mapping.grid.occupancy_grid import FREE, OCCUPIED, UNKNOWN, Grid, occupancy_grid
from vggt_ros.replay.run import Run
from vggt_ros.sequences.sequence import Truth
from vggt_ros.windows.solution import MapKeyframe, Solution

_FLOOR = 0.02
"""The floor is at this quantile of the heights of all true points."""
_STRIDE = 2
"""Every n-th pixel of the depth images is taken, in rows and columns."""


def grids(names: Names[str] = (), config: Config | None = None) -> dict[str, Any]:
    """Replay sequences, print how their grids compare with the true ones, and return all figures by sequence.

    Args:
        names: of the sequences; by default all of `sequences_with_depth`.
        config: the settings.

    Raises:
        SequenceError: a sequence is not there.

    """
    settings = config or Config()
    print(f"{'sequence':<20} {'free cells right':>17} {'occupied cells found':>21} {'within a cell':>14} "
          f"{'free cells found':>17} {'true cells':>11}", flush=True)

    def measure(result: Run) -> tuple[dict[str, Any], str]:
        one = compare(*grids_of(result, settings))
        return one, (f"{100 * one['free_right']:>15.1f} % {100 * one['occupied_found']:>19.1f} % "
                     f"{100 * one['occupied_near']:>12.1f} % {100 * one['free_found']:>15.1f} % "
                     f"{one['true_cells']:>11}")

    return replay_each(names, settings, measure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark grid`."""
    add_sequences(parser)
    add_settings(parser)
    parser.set_defaults(run=lambda options: (grids(options.sequences, Config().parse(options.set)), True))


def grids_of(result: Run, config: Config) -> tuple[Grid, Grid]:
    """Return the grid of a run, and the one by its depth images at true poses; raises EvaluationError without them."""
    solution, sequence = result.slam.solution, result.sequence
    if sequence.truth is None:
        raise EvaluationError("no ground truth")
    world_map = align(*result.trajectory(solution.largest_submap), *sequence.truth)
    upright = _upright(sequence.truth[1])
    true = _true_solution(result, sequence.truth, upright)
    heights = [_heights(true, row) for row in range(len(true))]
    shift = pose(np.eye(3), np.array([0, 0, -float(np.quantile(np.concatenate(heights), _FLOOR))]))
    found = replace(solution, scale=solution.scale * world_map.scale, map_camera=np.array(
        [pose(upright, np.zeros(3)) @ world_map.apply_pose(camera) for camera in solution.map_camera]))
    return (occupancy_grid(found, shift, config.grid, result.slam.surface.fused(solution)),
            occupancy_grid(true, shift, config.grid))


def compare(found: Grid, true: Grid) -> dict[str, float]:
    """Return shares of cells.

    `free_right` is that of the cells that are said free and are known; `occupied_found` that of the occupied ones, with
    `occupied_near` also those a cell away; and `free_found` that of the free ones.
    """
    cells = np.full(true.cells.shape, UNKNOWN, np.int8)
    first = np.rint((true.origin - found.origin) / true.resolution).astype(int)[::-1]  # row, column in `found`
    low, high = np.maximum(-first, 0), np.minimum(np.array(found.cells.shape) - first, true.cells.shape)
    if (high > low).all():
        cells[low[0]:high[0], low[1]:high[1]] = found.cells[(low + first)[0]:(high + first)[0],
                                                            (low + first)[1]:(high + first)[1]]
    occupied = cells == OCCUPIED
    near = cv2.dilate(occupied.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    judged, walls = (cells == FREE) & (true.cells != UNKNOWN), true.cells == OCCUPIED
    return {"free_right": _share(true.cells == FREE, judged), "occupied_found": _share(occupied, walls),
            "occupied_near": _share(near, walls), "free_found": _share(cells == FREE, true.cells == FREE),
            "true_cells": int((true.cells != UNKNOWN).sum())}


def _share(right: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return float(right[among].mean()) if among.any() else float("nan")


def _upright(poses: Array) -> Array:
    """Return the rotation (3, 3) to a frame with z up: the axis of the world that is most often up in the images."""
    up = -poses[:, :3, 1].mean(0)
    axis = int(np.abs(up).argmax())
    rows = np.roll(np.eye(3), (axis - 2) % 3, axis=1)  # a rotation that takes the axis to z
    return rows if up[axis] > 0 else np.diag([1.0, -1.0, -1.0]) @ rows


def _true_solution(result: Run, truth: Truth, upright: Array) -> Solution:
    """Return the keyframes that have a depth image of their time, with this depth and their true poses, upright."""
    solution, camera = result.slam.solution, result.sequence.camera
    rows = dict(zip(solution.stamps.tolist(), range(len(solution)), strict=True))
    keyframes: dict[int, MapKeyframe] = {}
    poses: dict[int, Array] = {}
    for stamp, depth in result.sequence.depths():
        nearest = associate(np.array([stamp], np.int64), solution.stamps)[1]
        at = associate(np.array([stamp], np.int64), truth[0])[1]
        if not len(nearest) or not len(at):
            continue
        keyframe = solution.keyframes[int(solution.ids[rows[int(solution.stamps[nearest[0]])]])]
        keyframes[keyframe.id] = _with_depth(keyframe, camera_points(depth, camera, _STRIDE))
        poses[keyframe.id] = pose(upright, np.zeros(3)) @ truth[1][at[0]]
    if not keyframes:
        raise EvaluationError("no keyframe has a depth image and a true pose of its time")
    ids = np.array(sorted(keyframes), np.int64)
    zeros = np.zeros(len(ids), np.int64)
    return Solution(0, ids, np.array([keyframes[k].stamp for k in ids.tolist()], np.int64), zeros, zeros,
                    np.array([poses[k] for k in ids.tolist()]), np.ones(len(ids)), keyframes)


def _with_depth(keyframe: MapKeyframe, points: Array) -> MapKeyframe:
    """Return a keyframe with the depth of points (n, 3) in its camera's frame, the nearest in each pixel."""
    height, width = keyframe.depth.shape
    points = points[points[:, 2] > 0]
    column, row = np.rint(points[:, :2] / points[:, 2:] * np.diag(keyframe.intrinsics)[:2]
                          + keyframe.intrinsics[:2, 2]).astype(int).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    depth = np.full(height * width, np.inf)
    np.minimum.at(depth, row[inside] * width + column[inside], points[inside, 2])
    depth[~(depth < 6e4)] = np.nan
    return replace(keyframe, depth=depth.reshape(height, width).astype(np.float16),
                   confidence=np.full((height, width), 255, np.uint8))


def _heights(solution: Solution, row: int) -> Array:
    """Return the z (n,) of the points of a keyframe."""
    keyframe, camera = solution.keyframes[int(solution.ids[row])], solution.map_camera[row]
    rows, columns = np.nonzero(keyframe.depth > 0)
    rays = np.linalg.inv(keyframe.intrinsics) @ np.stack([columns, rows, np.ones(len(rows))])
    return np.asarray(camera[2, :3] @ (rays * keyframe.depth[rows, columns].astype(np.float64)) + camera[2, 3])
