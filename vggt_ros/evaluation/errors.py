"""Trajectories and depth against the truth: ATE and RPE by evo, coverage, and depth in the terms of the field."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera, rectify_depth
from vggt_ros.geometry.poses import Array, Sim3, orthonormalize, rotation_angle, umeyama
from vggt_ros.storage.files import FileError, format_stamp

MAX_DIFFERENCE = 0.02
"""Poses and truth belong together when their stamps are at most this far apart, seconds."""


class EvaluationError(ValueError):
    """There is nothing to compare; the text says why."""


@dataclass(frozen=True)
class Accuracy:
    """How near a trajectory is to the truth.

    Attributes:
        ate_rmse, ate_median, ate_max: absolute trajectory error after alignment, meters.
        rpe_translation, rpe_rotation: RMSE of the motion from one pose to the next, meters and degrees.
        rpe_second_translation, rpe_second_rotation: RMSE of the motion over one second, meters and degrees; None if no
            two poses are a second apart.
        scale: meters in a unit of the trajectory; 1 if it is not free.
        path: length of the true path, meters.
        coverage: share of the true path that is spanned; see `coverage`.
        poses: pairs compared.

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
    """Return rows of both (n,) that belong together: for each stamp the nearest true one, if near enough."""
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


def _enough(stamps: NDArray[np.int64], truth_stamps: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Return the rows of `associate`; raises EvaluationError if they are fewer than an alignment needs."""
    rows, true_rows = associate(stamps, truth_stamps)
    if len(rows) < 3:
        raise EvaluationError(f"only {len(rows)} of {len(stamps)} poses have a true pose within {MAX_DIFFERENCE} s")
    return rows, true_rows


def align(stamps: NDArray[np.int64], map_camera: Array, truth_stamps: NDArray[np.int64], world_camera: Array,
          with_scale: bool = True) -> Sim3:
    """Return `world_map` that moves the trajectory onto the truth, best for the positions.

    Raises:
        EvaluationError: fewer than three poses have a true one.

    """
    rows, true_rows = _enough(stamps, truth_stamps)
    return umeyama(map_camera[rows, :3, 3], world_camera[true_rows, :3, 3], with_scale)


def accuracy(stamps: NDArray[np.int64], map_camera: Array, truth_stamps: NDArray[np.int64], world_camera: Array,
             with_scale: bool = True) -> Accuracy:
    """Compare poses `map_camera` (n, 4, 4) with the truth, after the best SE(3) or, `with_scale`, Sim(3).

    Raises:
        EvaluationError: fewer than three poses have a true one.

    """
    from evo.core import metrics, trajectory  # slow to import

    rows, true_rows = _enough(stamps, truth_stamps)
    seconds = (truth_stamps[true_rows] - truth_stamps[0]) / 1e9  # from the beginning, where a float is fine
    truth = trajectory.PoseTrajectory3D(poses_se3=_clean(world_camera[true_rows]), timestamps=seconds)
    ours = trajectory.PoseTrajectory3D(poses_se3=_clean(map_camera[rows]), timestamps=seconds)
    _, _, scale = ours.align(truth, correct_scale=with_scale)
    ate = metrics.APE(metrics.PoseRelation.translation_part)
    ate.process_data((truth, ours))
    steps = []
    for relation in (metrics.PoseRelation.translation_part, metrics.PoseRelation.rotation_angle_deg):
        rpe = metrics.RPE(relation, delta=1, delta_unit=metrics.Unit.frames)
        rpe.process_data((truth, ours))
        steps.append(rpe.get_statistic(metrics.StatisticsType.rmse))
    second = _motion_error(stamps[rows], np.array(ours.poses_se3), np.array(truth.poses_se3), 1.0)
    statistics = ate.get_all_statistics()
    centers = world_camera[:, :3, 3]
    return Accuracy(statistics["rmse"], statistics["median"], statistics["max"], steps[0], steps[1],
                    *second, float(scale) if with_scale else 1.0, _length(centers),
                    coverage(stamps, truth_stamps, centers), len(rows))


def _motion_error(stamps: NDArray[np.int64], ours: Array, truth: Array,
                  seconds: float) -> tuple[float | None, float | None]:
    """Return the RMSE of the motion from each pose to the one `seconds` later, meters and degrees, or None twice.

    `ours` and `truth` (n, 4, 4) are at the same rising `stamps` (n,). The later one may be off by a tenth of the time.
    """
    wanted = stamps + round(seconds * 1e9)
    later = _nearest(wanted, stamps)
    rows = np.flatnonzero(np.abs(stamps[later] - wanted) <= seconds * 1e8)
    if not len(rows):
        return None, None
    moved, really = (np.linalg.inv(poses[rows]) @ poses[later[rows]] for poses in (ours, truth))
    error = np.linalg.inv(really) @ moved
    turned = [rotation_angle(one[:3, :3]) for one in error]
    return (float(np.sqrt(np.mean(np.sum(error[:, :3, 3]**2, axis=1)))),
            float(np.degrees(np.sqrt(np.mean(np.square(turned))))))


def coverage(stamps: NDArray[np.int64], truth_stamps: NDArray[np.int64], centers: Array) -> float:
    """Return the share of the true path, positions `centers` (n, 3), between neighboring poses that are near enough.

    What lies before the first pose, after the last one, or in a hole does not count. A hole is longer than ten typical
    steps of the truth and than a meter, or than a twentieth of the path where that is less than a meter.
    """
    steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    if way[-1] == 0:
        return 0.0
    moving = steps[steps > 1e-3 * steps.max()]
    allowed = max(10 * float(np.median(moving)), min(1.0, 0.05 * way[-1]))
    begin = truth_stamps[0]
    gaps = np.diff(np.interp((np.sort(stamps) - begin) / 1e9, (truth_stamps - begin) / 1e9, way))
    return float(gaps[gaps <= allowed].sum() / way[-1])


@dataclass(frozen=True)
class DepthAccuracy:
    """How near depth maps are to a sensor's, after one scale for all of them.

    Attributes:
        keyframes: maps compared.
        confident: median absolute relative error over the more confident half of each map.
        all: the same over all pixels.
        known: share of the sensor's pixels that the maps know.
        scale: sensor meters in a unit of the maps.

    """

    keyframes: int
    confident: float
    all: float
    known: float
    scale: float


def depth_accuracy(folder: Path, depths: Iterable[tuple[int, NDArray[np.float32]]], camera: Camera) -> DepthAccuracy:
    """Compare the maps `folder/<stamp>.npz` with sensor depth registered to the images of `camera` as they come.

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
            raise FileError(f"{file}: not a depth map of this package ({error})") from error
        truth = rectify_depth(sensor, camera, intrinsics, depth.shape)
        both = np.isfinite(depth) & (depth > 0) & np.isfinite(truth)
        known.append(both.sum() / max(np.isfinite(truth).sum(), 1))
        if both.any():
            ratios.append(truth[both] / depth[both])
            confident.append(confidence[both] >= np.median(confidence[both]))
    if not ratios:
        raise EvaluationError(f"{folder}: no depth map has sensor depth of the same stamp")
    ratio = np.concatenate(ratios)
    scale = float(np.median(ratio))
    errors = np.abs(scale / ratio - 1)
    return DepthAccuracy(len(known), float(np.median(errors[np.concatenate(confident)])), float(np.median(errors)),
                         float(np.mean(known)), scale)


def _length(centers: Array) -> float:
    return float(np.linalg.norm(np.diff(centers, axis=0), axis=1).sum())


def _clean(poses: Array) -> list[Array]:
    """Return poses that evo takes for valid, which are rotations to the last digit."""
    cleaned = poses.copy()
    for matrix in cleaned:
        matrix[:3, :3] = orthonormalize(matrix[:3, :3])
    return list(cleaned)
