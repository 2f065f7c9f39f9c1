"""A recorded run of the published network on real images, and how two runs on the same images differ; numpy only."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, rotation_angle, umeyama

SIDE = 518
"""Side of the square image that the published demo gives to the network, pixels."""
SPREAD = {"rotations_deg": 0.379, "rotations_max_deg": 0.803, "centers_percent": 0.863, "focal_percent": 0.451,
          "depth_percent": 0.394, "scale_percent": 0.517}
"""Differences of two runs of the published code, on the same 25 images in two orders and on two machines (kitchen)."""


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """What the network said, as far as it was kept.

    Attributes:
        names: file names of the S images, in the order in which the network saw them.
        extrinsic: `camera_world` (S, 3, 4), optical axes.
        intrinsic: (S, 3, 3), for the padded image of `SIDE` x `SIDE` pixels.
        frame: index of the image (N,) of each sample of the depth.
        pixel: its column and row (N, 2) in the padded image.
        depth: z along the optical axis (N,), in the unit of the run.

    """

    names: tuple[str, ...]
    extrinsic: Array
    intrinsic: Array
    frame: NDArray[np.int64]
    pixel: NDArray[np.int64]
    depth: NDArray[np.float64]

    @staticmethod
    def load(path: Path) -> RecordedRun:
        """Read a file `run_*.npz`.

        Raises:
            OSError, ValueError, KeyError: it cannot be read, or an array is missing.

        """
        with np.load(path) as data:
            return RecordedRun(tuple(str(name) for name in data["names"]), data["extrinsic"].astype(np.float64),
                               data["intrinsic"].astype(np.float64), data["frame"].astype(np.int64),
                               data["xy"].astype(np.int64), data["depth"].astype(np.float64))

    def save(self, path: Path) -> None:
        """Write the run as `load` reads it."""
        np.savez(path, names=np.array(self.names), extrinsic=self.extrinsic, intrinsic=self.intrinsic,
                 frame=self.frame.astype(np.int16), xy=self.pixel.astype(np.int16), depth=self.depth.astype(np.float32))


def differences(ours: RecordedRun, recorded: RecordedRun) -> dict[str, float]:
    """Return how two runs differ in the images that both have.

    Rotations of pairs of images, degrees, median and largest; camera centers after the best similarity, RMS in percent
    of their RMS distance from their mean; focal lengths, median, percent; depth at the same pixels after one scale,
    median, percent; and this scale from image to image, standard deviation, percent. An item without samples is NaN.
    """
    shared = [name for name in recorded.names if name in ours.names]
    a, b = ([run.names.index(name) for name in shared] for run in (ours, recorded))
    focal = np.abs(ours.intrinsic[a][:, [0, 1], [0, 1]] / recorded.intrinsic[b][:, [0, 1], [0, 1]] - 1)
    ratios = _depth_ratios(ours, recorded)
    one_scale = np.median(np.concatenate(ratios)) if ratios else np.nan
    return {
        **pose_differences(ours.extrinsic[a], recorded.extrinsic[b]),
        "focal_percent": 100 * float(np.median(focal)),
        "depth_percent": 100 * float(np.median(np.abs(np.concatenate(ratios) - one_scale))) if ratios else np.nan,
        "scale_percent": 100 * float(np.std([np.median(one) for one in ratios])) if ratios else np.nan,
    }


def pose_errors(ours: Array, theirs: Array) -> tuple[Array, Array, Array]:
    """Return how two sets of poses `camera_world` (S, 3 or 4, 4) of the same images differ.

    The angles between the rotations of all pairs of images, degrees; the distances (S,) of the camera centers after the
    best similarity, in the unit of `theirs`; and those centers (S, 3) of `theirs`.
    """
    pairs = list(itertools.combinations(range(len(ours)), 2))
    between_a, between_b = ([turns[i] @ turns[j].T for i, j in pairs] for turns in (ours[:, :3, :3], theirs[:, :3, :3]))
    angles = np.array([np.degrees(rotation_angle(a.T @ b)) for a, b in zip(between_a, between_b)])
    centers_a, centers_b = (-np.einsum("sij,si->sj", poses[:, :3, :3], poses[:, :3, 3]) for poses in (ours, theirs))
    return angles, np.linalg.norm(umeyama(centers_a, centers_b).apply(centers_a) - centers_b, axis=1), centers_b


def pose_differences(ours: Array, theirs: Array) -> dict[str, float]:
    """Return how two sets of poses `camera_world` (S, 3 or 4, 4) of the same images differ, as `differences` does."""
    angles, gaps, centers_b = pose_errors(ours, theirs)
    extent = np.sqrt(np.mean(np.sum((centers_b - centers_b.mean(0)) ** 2, axis=1)))
    return {"rotations_deg": float(np.median(angles)), "rotations_max_deg": float(np.max(angles)),
            "centers_percent": 100 * float(np.sqrt(np.mean(gaps**2)) / extent)}


def _depth_ratios(ours: RecordedRun, recorded: RecordedRun) -> list[NDArray[np.float64]]:
    """Return, for each image with enough of them, the logarithms of the ratio of depths at the same pixels."""
    place = {name: number for number, name in enumerate(ours.names)}
    rows = np.array([place.get(name, -1) for name in recorded.names])
    keys_a = (ours.frame * SIDE + ours.pixel[:, 1]) * SIDE + ours.pixel[:, 0]
    keys_b = (rows[recorded.frame] * SIDE + recorded.pixel[:, 1]) * SIDE + recorded.pixel[:, 0]
    _, first, second = np.intersect1d(keys_a, np.where(rows[recorded.frame] < 0, -1, keys_b), return_indices=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(ours.depth[first] / recorded.depth[second])
    found = [logs[(ours.frame[first] == row) & np.isfinite(logs)] for row in range(len(ours.names))]
    return [one for one in found if len(one) >= 20]
