"""The `WindowGeometry` of a window that a local map has."""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import resize_intrinsics, with_focal
from vggt_ros.geometry.poses import Array, inverse, pose
from vggt_ros.reconstruction.adjustment.rolling_shutter import shift_per_second
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.reconstruction.multiview.dense import depth as dense
from vggt_ros.reconstruction.multiview.sfm.local_map import LocalMap
from vggt_ros.reconstruction.multiview.sfm.turn import UNCERTAINTY
from vggt_ros.windows.alignment import WEAK_SCALE
from vggt_ros.windows.tracks import Tracks


def window_geometry(local: LocalMap, keyframes: Collection[int], report: dict[str, float],
                    readout: float) -> WindowGeometry:
    """Return those of the keyframes that a local map has; the first of them is the identity."""
    rows = [row for row, keyframe in enumerate(local.ids) if keyframe in keyframes]
    scene, views = local.scene, [local.views[row] for row in rows]
    first = pose(scene.rotation[rows[0]], scene.translation[rows[0]])
    window_camera = np.array([first @ inverse(pose(scene.rotation[row], scene.translation[row])) for row in rows])
    window_camera[0] = np.eye(4)
    ids = [view.keyframe.id for view in views]
    depth, sigma = (np.array([local.depth[k][i] for k in ids]) for i in (0, 1))
    intrinsics = np.array([with_focal(view.keyframe.intrinsics, scene.focal[row])
                           for view, row in zip(views, rows, strict=True)])
    height, width = views[0].features.gray.shape
    small = np.array([resize_intrinsics(matrix, depth.shape[2] / width, depth.shape[1] / height)
                      for matrix in intrinsics])
    report |= {"known_depth": float(np.isfinite(depth).mean()), "focal_px": float(intrinsics[0, 0, 0])}
    turned = int(report["turned"])
    notes: tuple[str, ...] = ()
    if turned:
        notes = (f"{turned} keyframes were placed by a turn on the spot alone, without depth",)
    if report["unit_assumed"]:
        notes = ("after a turn on the spot the scale is assumed: the scene is taken to be as far away as before",)
    elif report["scale_sigma"] > WEAK_SCALE:
        notes += (f"its scale is known to {report['scale_sigma']:.0%} only, since few points that are known stayed in "
                  "view: a loop repairs it",)
    if report["revised"] and report["recalibrated"]:
        notes += (f"the distortion of the lens is known better: {report['revised']:.0f} keyframes of the windows "
                  "before were placed anew",)
    elif report["revised"]:
        notes += (f"it contradicts the window before: {report['revised']:.0f} keyframes of that were placed anew",)
    return WindowGeometry(tuple(ids), window_camera, small, depth, dense.rank(sigma), report=report,
                          uncertainty=UNCERTAINTY if turned else 1.0, notes=notes, tracks=_tracks(local, readout))


def _tracks(local: LocalMap, readout: float) -> Tracks:
    """Return all that a local map has observed."""
    views = local.views
    rate = shift_per_second(local.tracks, [view.velocity for view in views], views[0].features.gray.shape[::-1])
    points, seen = np.nonzero(~np.isnan(local.tracks[..., 0]))
    centers = np.array([view.keyframe.intrinsics[:2, 2] for view in views])
    return Tracks(local.numbers[points], np.array(local.ids, np.int64)[seen],
                  (local.tracks[points, seen] - centers[seen]).astype(np.float32),
                  rate[points, seen].astype(np.float32), local.scene.focal[-1], local.radial, readout)


def downscale(grays: list[NDArray[np.uint8]], intrinsics: Array, width: int) -> tuple[NDArray[np.uint8], Array]:
    """Return images downscaled to `width`, and their intrinsics."""
    height, full = grays[0].shape
    size = (min(width, full), round(height * min(width, full) / full))
    small = np.array([cv2.resize(gray, size, interpolation=cv2.INTER_AREA) for gray in grays])
    return small, np.array([resize_intrinsics(matrix, size[0] / full, size[1] / height) for matrix in intrinsics])
