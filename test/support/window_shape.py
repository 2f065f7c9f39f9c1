"""How near a reconstructed window is to the truth."""

import numpy as np

from vggt_ros.geometry.poses import Array, inverse, mean_rotation, pose, rotation_angle, umeyama
from vggt_ros.reconstruction.adjustment.bundle import Scene


def cameras_of(scene: Scene) -> Array:
    """Return the poses `world_camera` (S, 4, 4) of a scene."""
    return np.array([inverse(pose(*view)) for view in zip(scene.rotation, scene.translation, strict=True)])


def shape_error(window_camera: Array, truth: Array) -> tuple[float, float, float]:
    """Return position error as a fraction of the path, median rotation error in degrees, and the scale to the truth."""
    centers, true_centers = window_camera[:, :3, 3], truth[:, :3, 3]
    path = np.linalg.norm(np.diff(true_centers, axis=0), axis=1).sum()
    found = umeyama(centers, true_centers)
    rms = np.sqrt(((found.apply(centers) - true_centers) ** 2).sum(1).mean())
    turns = truth[:, :3, :3] @ window_camera[:, :3, :3].swapaxes(1, 2)
    mean = mean_rotation(turns)
    return rms / path, float(np.degrees(np.median([rotation_angle(mean.T @ turned) for turned in turns]))), found.scale
