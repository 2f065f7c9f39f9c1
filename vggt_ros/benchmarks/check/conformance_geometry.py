"""The geometry of a window against the truth of a rendered room, with the usual mistakes named."""

from __future__ import annotations

from collections.abc import Iterator
from math import degrees

import numpy as np

from vggt_ros.benchmarks.check.machine import GREEN, RED, YELLOW, Finding
from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera, pixel_rays, resize_intrinsics
from vggt_ros.geometry.poses import Array, inverse, rotation_angle, umeyama
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.synthetic import orbit, pinhole, room

_COUNT, _SIZE = 8, (640, 480)
_GOOD = (3.0, 10.0)
"""Largest median rotation error of pairs, degrees, and error of camera centers, percent of their extent."""
_SCALE, _METRIC, _FOCAL = 0.1, 0.05, 0.05
"""Largest relative differences: of depth and translation in scale, of a metric scale from 1, of the focal length."""


class RenderedWindow:
    """Eight images of a room, taken on an arc around what the camera looks at, and their truth.

    Attributes:
        camera: the camera, rectified and calibrated.
        images: RGB uint8 (H, W, 3).
        poses: `world_camera` (8, 4, 4), meters.

    """

    def __init__(self) -> None:
        """Render it."""
        self.intrinsics = pinhole(*_SIZE)
        self.camera = Camera(*_SIZE, self.intrinsics)
        self.poses = orbit(_COUNT, degrees=50.0)
        self._scene = room(texel=0.008)
        self.images = [self._scene.render(pose, self.intrinsics, _SIZE)[0] for pose in self.poses]

    def truth(self, geometry: WindowGeometry) -> tuple[Array, Array, Array]:
        """Return poses `world_camera`, intrinsics, and depth (S, h, w) for the keyframes and depth size of a window."""
        height, width = geometry.depth.shape[1:]
        intrinsics = resize_intrinsics(self.intrinsics, width / _SIZE[0], height / _SIZE[1])
        rows = [keyframe - 100 for keyframe in geometry.keyframe_ids]
        depth = [self._scene.render(self.poses[row], intrinsics, (width, height))[1] for row in rows]
        return self.poses[rows], intrinsics, np.array(depth, np.float64)


def check_poses(geometry: WindowGeometry, scene: RenderedWindow, config: Config) -> Iterator[Finding]:
    """Hold the poses against the truth, after a similarity; if they are wrong, try what is usually mistaken."""
    truth, ours = scene.truth(geometry)[0], geometry.window_camera
    found = pose_errors(ours, truth)
    figures: dict[str, object] = dict(found)
    text = f"rotations {found['rotations_deg']:.2f} deg, centers {found['centers_percent']:.1f} % of their extent"
    if _good(found):
        yield Finding("poses", GREEN, f"{text}, the first is the identity", figures=figures)
        return
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    inverted = np.array([inverse(pose) for pose in ours])
    for what, poses in (("camera_window instead of window_camera", inverted),
                        ("axes of OpenGL (y up, z backward) instead of optical ones", flip @ ours @ flip),
                        ("both camera_window and axes of OpenGL", flip @ inverted @ flip)):
        if _good(pose_errors(poses, truth)):
            yield Finding("poses", RED, f"{text}; they are right if taken as {what}",
                          "return window_camera[i] @ p_camera = p_window, with x right, y down, z forward", figures)
            return
    yield Finding("poses", RED, text, f"at most {_GOOD[0]:g} deg and {_GOOD[1]:g} % are expected here", figures)


def pose_errors(window_camera: Array, world_camera: Array) -> dict[str, float]:
    """Return the errors of poses (S, 4, 4) after the best similarity of their centers.

    Rotations, the median in degrees; centers, the RMS in percent of their RMS distance from their mean.
    """
    ours, truth = window_camera[:, :3, 3], world_camera[:, :3, 3]
    world_window = umeyama(ours, truth)
    turns = [degrees(rotation_angle(true[:3, :3].T @ world_window.rotation @ pose[:3, :3]))
             for pose, true in zip(window_camera, world_camera, strict=True)]
    error = np.sum((world_window.apply(ours) - truth) ** 2, axis=1)
    extent = np.sum((truth - truth.mean(0)) ** 2, axis=1)
    return {"rotations_deg": float(np.median(turns)),
            "centers_percent": 100 * float(np.sqrt(error.mean() / extent.mean()))}


def check_intrinsics(geometry: WindowGeometry, scene: RenderedWindow, config: Config) -> Iterator[Finding]:
    """Hold the intrinsics against those of the calibrated camera, for the size of the depth maps."""
    height, width = geometry.depth.shape[1:]
    truth = scene.truth(geometry)[1]
    focal = float(np.abs(geometry.intrinsics[:, [0, 1], [0, 1]] / truth[[0, 1], [0, 1]] - 1).max())
    center = float(np.abs(geometry.intrinsics[:, :2, 2] - truth[:2, 2]).max())
    text = f"depth of {width}x{height}; focal lengths differ by at most {100 * focal:.1f} %, centers by {center:.1f} px"
    if abs(width / height / (_SIZE[0] / _SIZE[1]) - 1) > 0.1:
        yield Finding("intrinsics", RED, text, "depth maps must have the aspect ratio of the images")
    elif focal > _FOCAL or center > 0.02 * width:
        yield Finding("intrinsics", RED, text, "give them in pixels of the depth maps; the camera of a window whose "
                      "keyframes are calibrated is known")
    else:
        yield Finding("intrinsics", GREEN, text)


def check_depth(geometry: WindowGeometry, scene: RenderedWindow, config: Config) -> Iterator[Finding]:
    """Look whether depth is z, in the unit of the poses, NaN where unknown, and enough to align windows."""
    poses, intrinsics, truth = scene.truth(geometry)
    known = ~np.isnan(geometry.depth)
    counts = known.sum((1, 2))
    if bool((geometry.depth[known] <= 0).any()) or not np.isfinite(geometry.depth[known]).all():
        yield Finding("depth", RED, "some depth is zero, negative or infinite", "set unknown depth to NaN")
        return
    if counts.min() < config.alignment.min_pixels:
        yield Finding("depth", RED, f"a keyframe has {counts.min()} pixels with depth; windows are joined by at least "
                      f"{config.alignment.min_pixels}", "return denser depth, or lower alignment.min_pixels")
        return
    height, width = geometry.depth.shape[1:]
    rows, columns = np.indices((height, width))
    slant = np.linalg.norm(pixel_rays(intrinsics, columns.ravel(), rows.ravel()), axis=-1).reshape(height, width)
    both = known & np.isfinite(truth)
    logs = {what: np.log(geometry.depth[both] / expected[both]) for what, expected in
            (("z", truth), ("distance", truth * slant))}
    error = {what: float(np.median(np.abs(log - np.median(log)))) for what, log in logs.items()}
    unit = float(np.exp(np.median(logs["z"])))
    of_poses = 1.0 / umeyama(geometry.window_camera[:, :3, 3], poses[:, :3, 3]).scale
    figures: dict[str, object] = {"error": error["z"], "unit_per_m": unit, "poses_unit_per_m": of_poses}
    text = (f"median error {100 * error['z']:.1f} %, known in {100 * known.mean():.0f} % of the pixels; 1 m is "
            f"{unit:.3g} in depth, {of_poses:.3g} in poses")
    if error["distance"] < 0.5 * error["z"]:
        yield Finding("depth", RED, f"{text}; it fits as distance along the ray",
                      "return z along the optical axis, not the distance from the camera's center", figures)
    elif abs(np.log(unit / of_poses)) > _SCALE:
        yield Finding("depth", RED, text, "depth and translations must have one unit", figures)
    elif geometry.metric and abs(unit - 1) > _METRIC:
        yield Finding("depth", RED, f"{text}; it claims to be metric", "set metric=True only if the unit is the meter",
                      figures)
    elif error["z"] > 0.1:
        yield Finding("depth", YELLOW, text, "less than 10 % are expected here", figures)
    else:
        yield Finding("depth", GREEN, f"{text}; {'metric' if geometry.metric else 'scale is free'}", figures=figures)


def check_confidence(geometry: WindowGeometry, scene: RenderedWindow, config: Config) -> Iterator[Finding]:
    """Look whether confidence is a rank in [0, 1], and 0 where depth is unknown."""
    confidence, known = geometry.confidence, ~np.isnan(geometry.depth)
    if not np.isfinite(confidence).all() or confidence.min() < 0 or confidence.max() > 1:
        yield Finding("confidence", RED, f"from {np.nanmin(confidence):.3g} to {np.nanmax(confidence):.3g}, not all in "
                      "[0, 1]", "return the rank of each pixel in the window, 1 for the best")
    elif (confidence[~known] > 0).any():
        yield Finding("confidence", RED, "above 0 where depth is NaN", "set it to 0 there")
    elif np.unique(confidence[known]).size < 10 or not 0.3 < float(np.median(confidence[known])) < 0.7:
        yield Finding("confidence", YELLOW, f"the median of known pixels is {np.median(confidence[known]):.2f}, of "
                      f"{np.unique(confidence[known]).size} values: it is no rank, and map.min_confidence means "
                      "something else", "return the rank of each pixel in the window: its median is 0.5")
    else:
        yield Finding("confidence", GREEN, "a rank, 0 where depth is unknown")


def check_uncertainty(geometry: WindowGeometry, scene: RenderedWindow, config: Config) -> Iterator[Finding]:
    """Check what is optional: descriptors of places and covariances of steps."""
    parts = []
    if geometry.descriptors is not None:
        lengths = np.linalg.norm(geometry.descriptors, axis=1)
        if len(lengths) != len(geometry.keyframe_ids) or not np.allclose(lengths, 1, atol=1e-3):
            yield Finding("uncertainty", RED, f"descriptors of shape {geometry.descriptors.shape} with lengths of "
                          f"{lengths.min():.3g} to {lengths.max():.3g}", "return one unit vector for each keyframe")
            return
        parts.append(f"descriptors of {geometry.descriptors.shape[1]} numbers")
    if (covariance := geometry.step_covariance) is not None:
        expected = (len(geometry.keyframe_ids) - 1, 6, 6)
        if covariance.shape != expected or not np.allclose(covariance, covariance.swapaxes(1, 2)) \
                or np.linalg.eigvalsh(covariance).min() <= 0:
            yield Finding("uncertainty", RED, f"step_covariance of shape {covariance.shape}",
                          f"return symmetric, positive definite matrices of shape {expected}")
            return
        sigma = np.degrees(np.sqrt(np.median(covariance[:, [0, 1, 2], [0, 1, 2]])))
        parts.append(f"covariances with a median of {sigma:.2f} deg a step")
    yield Finding("uncertainty", GREEN, ", ".join(parts) or "no descriptors and no covariances, which are optional")


def _good(found: dict[str, float]) -> bool:
    return found["rotations_deg"] <= _GOOD[0] and found["centers_percent"] <= _GOOD[1]
