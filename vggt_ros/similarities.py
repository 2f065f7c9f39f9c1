"""Many similarities at once, as matrices [[s R, t], [0, 1]] of shape (n, 4, 4), so that composition is `@`.

Tangent vectors are [w, v, l] (rotation, translation, log scale) of the Lie algebra [[skew(w) + l I, v], [0, 0]]
(Strasdat, Montiel, Davison, Scale Drift-Aware Large Scale Monocular SLAM, RSS 2010).
"""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry import Array, Sim3

_ROUNDING = 1e-17
"""Where series end: below the rounding error of their first term."""


def to_matrix(similarity: Sim3) -> Array:
    """Return the matrix (4, 4) of a similarity."""
    matrix = np.eye(4)
    matrix[:3, :3] = similarity.scale * similarity.rotation
    matrix[:3, 3] = similarity.translation
    return matrix


def to_sim3(matrices: Array) -> list[Sim3]:
    """Return the similarities of matrices (n, 4, 4)."""
    scale = scales(matrices)
    rotation = matrices[:, :3, :3] / scale[:, None, None]
    return [Sim3(float(s), r, t) for s, r, t in zip(scale, rotation, matrices[:, :3, 3].copy(), strict=True)]


def scales(matrices: Array) -> Array:
    """Return the scales (n,) of matrices (n, 4, 4)."""
    return np.asarray(np.sqrt(np.einsum("nij,nij->n", matrices[:, :3, :3], matrices[:, :3, :3]) / 3))


def inverse(matrices: Array) -> Array:
    """Return the inverses of matrices (n, 4, 4)."""
    result = np.zeros_like(matrices)
    linear = np.swapaxes(matrices[:, :3, :3], 1, 2) / (scales(matrices) ** 2)[:, None, None]
    result[:, :3, :3] = linear
    result[:, :3, 3] = -np.einsum("nij,nj->ni", linear, matrices[:, :3, 3])
    result[:, 3, 3] = 1
    return result


def normalized(matrices: Array) -> Array:
    """Return matrices (n, 4, 4) whose rotations, orthonormal but for rounding errors, are so again (a Newton step).

    `inverse` takes them at their word, so that rounding errors double where products and inverses alternate.
    """
    result = matrices.copy()
    scale = scales(matrices)[:, None, None]
    rotation = matrices[:, :3, :3] / scale
    result[:, :3, :3] = scale * (1.5 * rotation - 0.5 * rotation @ np.swapaxes(rotation, 1, 2) @ rotation)
    return result


def skews(vectors: Array) -> Array:
    """Return the cross product matrices (n, 3, 3) of vectors (n, 3)."""
    x, y, z = vectors.T
    result = np.zeros((len(vectors), 3, 3))  # filled in: far faster than a stack where n is small
    result[:, 2, 1], result[:, 0, 2], result[:, 1, 0] = x, y, z
    result[:, 1, 2], result[:, 2, 0], result[:, 0, 1] = -x, -y, -z
    return result


def rotation_vectors(rotations: Array) -> Array:
    """Return the rotation vectors (n, 3), radians, of rotations (n, 3, 3); stable up to half a turn."""
    r = rotations
    # Four times the outer product of the quaternion x y z w with itself.
    outer = np.empty((len(r), 4, 4))
    trace = np.trace(r, axis1=1, axis2=2)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        outer[:, i, i] = 1 + 2 * r[:, i, i] - trace
        outer[:, i, j] = outer[:, j, i] = r[:, i, j] + r[:, j, i]
        outer[:, i, 3] = outer[:, 3, i] = r[:, k, j] - r[:, j, k]
    outer[:, 3, 3] = 1 + trace
    row = outer[np.arange(len(r)), np.argmax(np.einsum("nii->ni", outer), axis=1)]
    quaternion = row / np.linalg.norm(row, axis=1, keepdims=True) * np.where(row[:, 3:] < 0, -1.0, 1.0)
    length = np.linalg.norm(quaternion[:, :3], axis=1)
    factor = np.where(length < 1e-9, 2.0, 2 * np.arctan2(length, quaternion[:, 3]) / np.maximum(length, 1e-12))
    return np.asarray(factor[:, None] * quaternion[:, :3])


def exp(tangents: Array) -> Array:
    """Return the matrices (n, 4, 4) of tangent vectors (n, 7)."""
    algebra = np.zeros((len(tangents), 4, 4))
    algebra[:, :3, :3] = skews(tangents[:, :3]) + tangents[:, 6, None, None] * np.eye(3)
    algebra[:, :3, 3] = tangents[:, 3:6]
    largest = float(np.abs(algebra[:, :3, :3]).max(initial=0.0))
    halvings = max(0, int(np.ceil(np.log2(max(largest, 1e-9)))) + 1)
    algebra /= 2.0**halvings
    term, result = algebra, algebra + np.eye(4)
    for k in range(2, 2 + _terms(largest / 2.0**halvings)):
        term = term @ algebra / k
        result += term
    for _ in range(halvings):
        result = result @ result
    return result


def log(matrices: Array) -> Array:
    """Return the tangent vectors (n, 7) of matrices (n, 4, 4)."""
    scale = scales(matrices)
    tangents = np.empty((len(matrices), 7))
    tangents[:, :3] = rotation_vectors(matrices[:, :3, :3] / scale[:, None, None])
    tangents[:, 6] = np.log(scale)
    linear = skews(tangents[:, :3]) + tangents[:, 6, None, None] * np.eye(3)
    term = left = np.broadcast_to(np.eye(3), linear.shape)
    for k in range(2, 2 + _terms(float(np.abs(linear).max(initial=0.0)))):
        term = term @ linear / k
        left = left + term
    tangents[:, 3:6] = np.linalg.solve(left, matrices[:, :3, 3, None])[..., 0]
    return tangents


def _terms(largest: float) -> int:
    """Return how many terms the series of an exponential needs, given the largest entry of a matrix (3, 3)."""
    norm, term, count = 3 * largest, 1.0, 0  # no norm of the matrix is larger
    while term > _ROUNDING:
        count += 1
        term *= norm / count
    return count


def adjoint(matrices: Array) -> Array:
    """Return the adjoints (n, 7, 7): `M exp(x) = exp(adjoint(M) x) M`."""
    scale = scales(matrices)
    translation = matrices[:, :3, 3]
    rotation = matrices[:, :3, :3] / scale[:, None, None]
    result = np.zeros((len(matrices), 7, 7))
    result[:, :3, :3] = rotation
    result[:, 3:6, :3] = skews(translation) @ rotation
    result[:, 3:6, 3:6] = matrices[:, :3, :3]
    result[:, 3:6, 6] = -translation
    result[:, 6, 6] = 1
    return result


def transported(covariances: Array, matrices: Array) -> Array:
    """Return covariances (n, 7, 7) of perturbations on the right of `matrices`, as of perturbations on the left."""
    frames = adjoint(matrices)
    return np.asarray(frames @ covariances @ np.swapaxes(frames, 1, 2))
