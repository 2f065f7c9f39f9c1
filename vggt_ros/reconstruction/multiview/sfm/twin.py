"""The twin solution of a window: depth relief inverted, camera motion mirrored about the line of sight.

With a short baseline or a distant scene, a scene and its relief-reversed version have nearly the same images if the
camera translation is mirrored and the rotation compensates (Szeliski and Kang, Shape Ambiguities in Structure from
Motion, PAMI 1997). Both are local minima of bundle adjustment, and RANSAC may end in either. Therefore a solution is
also optimized from its mirrored version, and the one of lower cost is kept.
"""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry.poses import Array, rotation_between_directions
from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions, Scene
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.reconstruction.adjustment.triangulation import triangulate_and_adjust
from vggt_ros.reconstruction.multiview.sfm.poses import Mask, robust_cost

MAX_COST_RATIO = 2.0
"""Optimization of a twin stops if its cost after a few iterations exceeds that of the solution by this factor."""


def solve_twin(solved: SparseReconstruction, observations: Array, visible: Mask) -> tuple[float, SparseReconstruction]:
    """Return the cost of the solution optimized from the twin of `solved`, and that solution."""
    scene, fixed = reversed_relief(solved), solved.initial_pair[0]
    max_cost = MAX_COST_RATIO * robust_cost(solved.scene, observations, visible, solved.registered)
    for iterations in (4, 15, 15):
        scene, inliers = triangulate_and_adjust(scene, observations, visible, solved.registered, fixed,
                                                AdjustmentOptions(iterations))
        cost = robust_cost(scene, observations, visible, solved.registered)
        if cost > max_cost:
            break
    return cost, SparseReconstruction(scene, solved.registered, inliers, observations, solved.initial_pair)


def reversed_relief(solved: SparseReconstruction) -> Scene:
    """Return the scene with the camera centers mirrored about the optical axis of the first camera of the initial pair.

    Points are unchanged. Each camera is rotated so that the median point keeps its direction in the camera.
    """
    scene, first = solved.scene, solved.initial_pair[0]
    first_world = scene.rotation[first]
    median_point = np.median(scene.points[solved.inliers.any(1)] @ first_world.T + scene.translation[first], axis=0)
    centers = scene.centers() @ first_world.T + scene.translation[first]
    rotation, translation = scene.rotation.copy(), scene.translation.copy()
    for camera in np.flatnonzero(solved.registered):
        center = centers[camera] * [-1.0, -1.0, 1.0]
        camera_first = rotation[camera] @ first_world.T @ rotation_between_directions(median_point - center,
                                                                            median_point - centers[camera])
        rotation[camera] = camera_first @ first_world
        translation[camera] = camera_first @ (scene.translation[first] - center)
    return Scene(rotation, translation, scene.points, scene.focal)
