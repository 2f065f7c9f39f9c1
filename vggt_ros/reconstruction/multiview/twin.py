"""The other solution of a window: the scene's relief inverted, and the cameras moved to the other side.

Over a short baseline, or seen from afar, a scene and its relief turned inside out look nearly alike under cameras that
move the other way and turn as much more or less (Szeliski and Kang, Shape Ambiguities in Structure from Motion, PAMI
1997). Bundle adjustment does not find from the one to the other, and RANSAC ends in either: so what it found is begun
again from its twin, and what explains the tracks better is right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import so3_exp
from vggt_ros.reconstruction.multiview.bundle import Scene
from vggt_ros.reconstruction.multiview.poses import Mask, Solved, refit, robust_cost

Array = NDArray[np.float64]

HOPELESS = 2.0
"""A twin that explains the tracks so many times worse after a few iterations is not followed any further."""


def twin(solved: Solved, observed: Array, seen: Mask) -> tuple[float, Solved]:
    """Return the solution begun from the twin of one, and its cost; arguments as for `poses.solve`."""
    scene, first = reversed_relief(solved), solved.pair[0]
    limit = HOPELESS * robust_cost(solved.scene, observed, seen, solved.placed)
    for iterations in (4, 15, 15):
        scene, used = refit(scene, observed, seen, solved.placed, first, iterations)
        cost = robust_cost(scene, observed, seen, solved.placed)
        if cost > limit:
            break
    return cost, Solved(scene, solved.placed, used, observed, solved.pair)


def reversed_relief(solved: Solved) -> Scene:
    """Return the cameras of a solution mirrored about the line of sight of its first one; points stay as they are.

    Each looks at the middle of the points as before.
    """
    scene, first = solved.scene, solved.pair[0]
    first_world = scene.rotation[first]
    middle = np.median(scene.points[solved.seen.any(1)] @ first_world.T + scene.translation[first], axis=0)
    centers = scene.centers() @ first_world.T + scene.translation[first]
    rotation, translation = scene.rotation.copy(), scene.translation.copy()
    for camera in np.flatnonzero(solved.placed):
        center = centers[camera] * [-1.0, -1.0, 1.0]
        turn = rotation[camera] @ first_world.T @ _swing(middle - center, middle - centers[camera])
        rotation[camera] = turn @ first_world
        translation[camera] = turn @ (scene.translation[first] - center)
    return Scene(rotation, translation, scene.points, scene.focal)


def _swing(source: Array, target: Array) -> Array:
    """Return the smallest rotation (3, 3) that turns one direction (3,) into another."""
    axis = np.cross(source, target)
    sine = float(np.linalg.norm(axis))
    if sine < 1e-12:
        return np.eye(3)
    return so3_exp(axis / sine * np.arctan2(sine, float(source @ target)))
