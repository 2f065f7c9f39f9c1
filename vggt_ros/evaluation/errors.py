"""Errors of trajectories and depth against ground truth: ATE and RPE as in evo, coverage, relative depth error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera, rectify_depth
from vggt_ros.geometry.poses import Array, Sim3, rotation_angle, umeyama
from vggt_ros.storage.files import FileError, format_stamp

MAX_DIFFERENCE = 0.02
"""Largest difference between the stamps of a pose and of its true pose, seconds."""


class EvaluationError(ValueError):
    """There is nothing to compare; the text says why."""


@dataclass(frozen=True)
class Accuracy:
    """Errors of a trajectory against ground truth.

    Attributes:
        ate_rmse, ate_median, ate_max: absolute trajectory error after alignment, meters.
        rpe_translation, rpe_rotation: RMSE of the motion from one pose to the next, meters and degrees.
        rpe_second_translation, rpe_second_rotation: RMSE of the motion over one second, meters and degrees; None if no
            two poses are a second apart.
        scale: meters in a unit of the trajectory; 1 if it is not free.
        path: length of the true path, meters.
        coverage: fraction of the true path that is covered; see `coverage`.
        poses: number of poses compared.

    """

    ate_rmse: float
    ate_median: float
    ate_max: float
    rpe_translation: float
    rpe_rotation: float
    rpe_second_translation: float | None
    rpe_second_rotation: float | None
    scale: float
    path: float
    coverage: float
    poses: int


def associate(stamps: NDArray[np.int64], truth_stamps: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Return the rows of both (n,) that correspond: for each stamp the nearest true one, if it is near enough."""
    nearest = _nearest(stamps, truth_stamps)
    rows = np.flatnonzero(np.abs(truth_stamps[nearest] - stamps) <= MAX_DIFFERENCE * 1e9)
    return rows, nearest[rows]


def _nearest(stamps: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each of `stamps` (n,) the row of the nearest of the rising `others` (m,)."""
    after = np.clip(np.searchsorted(others, stamps), 1, max(len(others) - 1, 1))
    before = after - 1
    if len(others) == 1:
        after = before = np.zeros(len(stamps), np.int64)
    return np.where(stamps - others[before] <= others[after] - stamps, before, after)


def _span(stamps: NDArray[np.int64]) -> str:
    return f"times from {stamps[0] / 1e9:.2f} to {stamps[-1] / 1e9:.2f} s" if len(stamps) else "no times"


def _associate_enough(stamps: NDArray[np.int64], truth_stamps: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Return the rows of `associate`; raises EvaluationError if they are fewer than an alignment needs."""
    rows, true_rows = associate(stamps, truth_stamps)
    if len(rows) < 3:
        raise EvaluationError(f"only {len(rows)} of {len(stamps)} poses have a true pose within {MAX_DIFFERENCE} s: "
                              f"they have {_span(stamps)}, the true ones {_span(truth_stamps)}")
    return rows, true_rows


def align(stamps: NDArray[np.int64], map_camera: Array, truth_stamps: NDArray[np.int64], world_camera: Array,
          with_scale: bool = True) -> Sim3:
    """Return `world_map` that aligns the trajectory's positions to the truth by least squares.

    Raises:
        EvaluationError: fewer than three poses have a true pose.

    """
    rows, true_rows = _associate_enough(stamps, truth_stamps)
    return umeyama(map_camera[rows, :3, 3], world_camera[true_rows, :3, 3], with_scale)


def accuracy(stamps: NDArray[np.int64], map_camera: Array, truth_stamps: NDArray[np.int64], world_camera: Array,
             with_scale: bool = True) -> Accuracy:
    """Compare poses `map_camera` (n, 4, 4) with the truth, after alignment by SE(3) or, `with_scale`, Sim(3).

    Raises:
        EvaluationError: fewer than three poses have a true pose.

    """
    rows, true_rows = _associate_enough(stamps, truth_stamps)
    truth, ours = world_camera[true_rows], map_camera[rows].copy()
    world_map = umeyama(ours[:, :3, 3], truth[:, :3, 3], with_scale)
    ours[:, :3, 3] = world_map.apply(ours[:, :3, 3])
    ours[:, :3, :3] = world_map.rotation @ ours[:, :3, :3]
    distance = np.linalg.norm(ours[:, :3, 3] - truth[:, :3, 3], axis=1)
    steps = _motion_error(ours[:-1], ours[1:], truth[:-1], truth[1:])
    second = _motion_error_after(stamps[rows], ours, truth, 1.0)
    centers = world_camera[:, :3, 3]
    return Accuracy(float(np.sqrt(np.mean(distance**2))), float(np.median(distance)), float(distance.max()), *steps,
                    *second, float(world_map.scale), _length(centers), coverage(stamps, truth_stamps, centers),
                    len(rows))


def _motion_error_after(stamps: NDArray[np.int64], ours: Array, truth: Array,
                        seconds: float) -> tuple[float | None, float | None]:
    """Return the RMSE of the motion from each pose to the one `seconds` later, meters and degrees, or None twice.

    `ours` and `truth` (n, 4, 4) have the same rising `stamps` (n,). The later stamp may be off by a tenth of `seconds`.
    """
    later_stamps = stamps + round(seconds * 1e9)
    later = _nearest(later_stamps, stamps)
    rows = np.flatnonzero(np.abs(stamps[later] - later_stamps) <= seconds * 1e8)
    if not len(rows):
        return None, None
    return _motion_error(ours[rows], ours[later[rows]], truth[rows], truth[later[rows]])


def _motion_error(ours: Array, ours_later: Array, truth: Array, truth_later: Array) -> tuple[float, float]:
    """Return the RMSE of the motion from poses (n, 4, 4) to later ones, meters and degrees."""
    error = np.linalg.inv(np.linalg.inv(truth) @ truth_later) @ np.linalg.inv(ours) @ ours_later
    angles = [rotation_angle(one) for one in error[:, :3, :3]]
    return (float(np.sqrt(np.mean((error[:, :3, 3]**2).sum(1)))),
            float(np.degrees(np.sqrt(np.mean(np.square(angles))))))


def coverage(stamps: NDArray[np.int64], truth_stamps: NDArray[np.int64], centers: Array) -> float:
    """Return the fraction of the true path, positions `centers` (n, 3), between consecutive poses without a gap.

    What lies before the first pose, after the last one, or in a gap does not count. A gap is longer than ten typical
    steps of the truth and than a meter, or than a twentieth of the path where that is less than a meter.
    """
    steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    path = np.concatenate([[0.0], np.cumsum(steps)])
    if path[-1] == 0:
        return 0.0
    moving = steps[steps > 1e-3 * steps.max()]
    max_gap = max(10 * float(np.median(moving)), min(1.0, 0.05 * path[-1]))
    begin = truth_stamps[0]
    gaps = np.diff(np.interp((np.sort(stamps) - begin) / 1e9, (truth_stamps - begin) / 1e9, path))
    return float(gaps[gaps <= max_gap].sum() / path[-1])


@dataclass(frozen=True)
class DepthAccuracy:
    """Errors of depth maps against a sensor's depth, after one scale for all of them.

    Attributes:
        keyframes: maps compared.
        confident: median absolute relative error over the more confident half of each map.
        all: the same over all pixels.
        known: fraction of the sensor's pixels for which the maps have depth.
        scale: sensor meters in a unit of the maps.

    """

    keyframes: int
    confident: float
    all: float
    known: float
    scale: float


def depth_accuracy(folder: Path, depths: Iterable[tuple[int, NDArray[np.float32]]], camera: Camera) -> DepthAccuracy:
    """Compare the maps `folder/<stamp>.npz` with sensor depth registered to the unrectified images of `camera`.

    Raises:
        FileError: the folder has no maps, or one cannot be read.
        EvaluationError: no map has sensor depth of the same stamp.

    """
    files = {file.stem: file for file in folder.glob("*.npz")}
    if not files:
        raise FileError(f"{folder}: no depth maps (*.npz) in it")
    ratios, confident, known = [], [], []
    for stamp, sensor in depths:
        file = files.get(format_stamp(stamp))
        if file is None:
            continue
        try:
            with np.load(file) as data:
                depth, confidence, intrinsics = data["depth"], data["confidence"], data["K"]
        except (OSError, ValueError, KeyError) as error:
            raise FileError(f"{file}: not a depth map written by this package ({error})") from error
        truth = rectify_depth(sensor, camera, intrinsics, depth.shape)
        valid = np.isfinite(depth) & (depth > 0) & np.isfinite(truth)
        known.append(valid.sum() / max(np.isfinite(truth).sum(), 1))
        if valid.any():
            ratios.append(truth[valid] / depth[valid])
            confident.append(confidence[valid] >= np.median(confidence[valid]))
    if not ratios:
        raise EvaluationError(f"{folder}: no depth map has sensor depth of the same stamp")
    ratio = np.concatenate(ratios)
    scale = float(np.median(ratio))
    errors = np.abs(scale / ratio - 1)
    return DepthAccuracy(len(known), float(np.median(errors[np.concatenate(confident)])), float(np.median(errors)),
                         float(np.mean(known)), scale)


def _length(centers: Array) -> float:
    return float(np.linalg.norm(np.diff(centers, axis=0), axis=1).sum())
