"""Rigid and similarity transforms, robust means and closed-form alignment, in numpy.

Poses are 4x4 float64 matrices named `target_source`: `map_camera @ p_camera = p_map`. Similarities are `Sim3`.
Tangent vectors are [w, v] for SE(3) and [w, v, l] for Sim(3), rotation first, as in gtsam.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def adjoint(target_source: Array) -> Array:
    """Return the adjoint matrix (6, 6), which maps a twist [rotation, translation] from source to target."""
    rotation = target_source[:3, :3]
    matrix = np.zeros((6, 6))
    matrix[:3, :3] = matrix[3:, 3:] = rotation
    matrix[3:, :3] = skew(target_source[:3, 3]) @ rotation
    return matrix


def skew(vector: Array) -> Array:
    """Return the matrix (3, 3) of the cross product with `vector` (3,)."""
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def so3_exp(omega: Array) -> Array:
    """Return the rotation (3, 3) by the rotation vector `omega` (3,), radians."""
    angle = float(np.linalg.norm(omega))
    matrix = skew(omega)
    if angle < 1e-8:
        return np.eye(3) + matrix + 0.5 * matrix @ matrix
    return np.eye(3) + np.sin(angle) / angle * matrix + (1 - np.cos(angle)) / angle**2 * matrix @ matrix


def so3_log(rotation: Array) -> Array:
    """Return the rotation vector (3,), radians, of `rotation` (3, 3); stable up to an angle of pi."""
    quaternion = quaternion_from_matrix(rotation)
    if quaternion[3] < 0:
        quaternion = -quaternion
    length = float(np.linalg.norm(quaternion[:3]))
    if length < 1e-9:
        return 2.0 * quaternion[:3]
    return 2.0 * np.arctan2(length, quaternion[3]) / length * quaternion[:3]


def orthonormalize(matrix: Array) -> Array:
    """Return the rotation nearest to `matrix` (3, 3) in the Frobenius norm."""
    u, _, vt = np.linalg.svd(matrix)
    return u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt


def quaternion_from_matrix(rotation: Array) -> Array:
    """Return the unit quaternion x y z w (4,) of `rotation` (3, 3) (Shepperd's method)."""
    trace = np.trace(rotation)
    choice = int(np.argmax([rotation[0, 0], rotation[1, 1], rotation[2, 2], trace]))
    quaternion = np.empty(4)
    if choice == 3:
        quaternion[:3] = (rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0],
                          rotation[1, 0] - rotation[0, 1])
        quaternion[3] = 1 + trace
    else:
        i, j, k = choice, (choice + 1) % 3, (choice + 2) % 3
        quaternion[i] = 1 - trace + 2 * rotation[i, i]
        quaternion[j] = rotation[j, i] + rotation[i, j]
        quaternion[k] = rotation[k, i] + rotation[i, k]
        quaternion[3] = rotation[k, j] - rotation[j, k]
    return quaternion / np.linalg.norm(quaternion)


def matrix_from_quaternion(quaternion: Array) -> Array:
    """Return the rotation (3, 3) of `quaternion` x y z w (4,), which need not be of unit length."""
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    return np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                     [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                     [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])


def pose(rotation: Array, translation: Array) -> Array:
    """Return the 4x4 pose of a rotation (3, 3) and a translation (3,)."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = translation
    return matrix


BODY_OPTICAL = pose(np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), np.zeros(3))
"""Pose of an optical frame (x right, y down, z forward) in a body frame (x forward, y left, z up); REP-103."""


def inverse(target_source: Array) -> Array:
    """Return `source_target` of a 4x4 pose."""
    rotation = target_source[:3, :3].T
    return pose(rotation, -rotation @ target_source[:3, 3])


def rotation_between_directions(source: Array, target: Array) -> Array:
    """Return the smallest rotation (3, 3) that maps one direction (3,) to another; the identity for opposite ones."""
    axis = np.cross(source, target)
    sine = float(np.linalg.norm(axis))
    if sine < 1e-12:
        return np.eye(3)
    return so3_exp(axis / sine * np.arctan2(sine, float(source @ target)))


def rotation_angle(rotation: Array) -> float:
    """Return the angle in radians of a rotation (3, 3)."""
    return float(np.linalg.norm(so3_log(rotation)))


@dataclass(frozen=True, eq=False)
class Sim3:
    """A similarity `target_source`: `p_target = scale * rotation @ p_source + translation`."""

    scale: float
    rotation: Array
    translation: Array

    @staticmethod
    def identity() -> Sim3:
        """Return the identity."""
        return Sim3(1.0, np.eye(3), np.zeros(3))

    @staticmethod
    def from_pose(target_source: Array, scale: float = 1.0) -> Sim3:
        """Return the similarity of a 4x4 pose and a scale."""
        return Sim3(scale, target_source[:3, :3].copy(), target_source[:3, 3].copy())

    def __matmul__(self, other: Sim3) -> Sim3:
        """Compose: `target_middle @ middle_source`."""
        return Sim3(self.scale * other.scale, self.rotation @ other.rotation, self.apply(other.translation))

    def inverse(self) -> Sim3:
        """Return `source_target`."""
        rotation = self.rotation.T
        return Sim3(1.0 / self.scale, rotation, -rotation @ self.translation / self.scale)

    def apply(self, points: Array) -> Array:
        """Return points (..., 3) transformed from source to target."""
        return self.scale * points @ self.rotation.T + self.translation

    def apply_pose(self, source_camera: Array) -> Array:
        """Return the 4x4 pose `target_camera`: the rotation composed, the camera center transformed."""
        return pose(self.rotation @ source_camera[:3, :3], self.apply(source_camera[:3, 3]))


def mean_rotation(rotations: Array, weights: Array | None = None) -> Array:
    """Return the chordal mean (3, 3) of rotations (n, 3, 3) (Hartley et al., Rotation Averaging, IJCV 2013)."""
    weights = np.ones(len(rotations)) if weights is None else weights
    return orthonormalize(np.einsum("n,nij->ij", weights, rotations))


def robust_sigma(values: Array) -> float:
    """Return 1.4826 times the median absolute deviation of `values` (n,), an outlier-robust standard deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def umeyama(source: Array, target: Array, with_scale: bool = True) -> Sim3:
    """Return the similarity that maps points `source` (n, 3) onto `target` (n, 3) with least squared error.

    Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 1991.
    """
    mean_source, mean_target = source.mean(0), target.mean(0)
    centered_source, centered_target = source - mean_source, target - mean_target
    u, singular, vt = np.linalg.svd(centered_target.T @ centered_source / len(source))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(signs) @ vt
    variance = float((centered_source**2).sum() / len(source))
    scale = float((singular * signs).sum() / variance) if with_scale and variance > 0 else 1.0
    return Sim3(scale, rotation, mean_target - scale * rotation @ mean_source)
