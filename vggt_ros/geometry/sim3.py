"""Batches of Sim(3) similarities as matrices [[s R, t], [0, 1]] of shape (n, 4, 4), so that composition is `@`.

Tangent vectors are [w, v, l] (rotation, translation, log scale) of the Lie algebra [[skew(w) + l I, v], [0, 0]]
(Strasdat, Montiel, Davison, Scale Drift-Aware Large Scale Monocular SLAM, RSS 2010).
"""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry.poses import Array, Sim3


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
    """Return matrices (n, 4, 4) whose rotations are orthonormalized by one Newton step.

    The rotations must be orthonormal up to rounding errors. `inverse` assumes orthonormal rotations, so rounding
    errors double wherever products and inverses alternate.
    """
    result = matrices.copy()
    scale = scales(matrices)[:, None, None]
    rotation = matrices[:, :3, :3] / scale
    result[:, :3, :3] = scale * (1.5 * rotation - 0.5 * rotation @ np.swapaxes(rotation, 1, 2) @ rotation)
    return result


def skews(vectors: Array) -> Array:
    """Return the cross product matrices (n, 3, 3) of vectors (n, 3)."""
    x, y, z = vectors.T
    result = np.zeros((len(vectors), 3, 3))  # filled in place: much faster than np.stack for small n
    result[:, 2, 1], result[:, 0, 2], result[:, 1, 0] = x, y, z
    result[:, 1, 2], result[:, 2, 0], result[:, 0, 1] = -x, -y, -z
    return result


def rotations(vectors: Array) -> Array:
    """Return the rotations (n, 3, 3) by rotation vectors (n, 3), radians."""
    angle = np.sqrt((vectors**2).sum(1))[:, None, None]
    skew, safe = skews(vectors), np.maximum(angle, 1e-12)
    # The sine of half the angle is exact where that of one minus the cosine is not.
    return np.eye(3) + np.sin(safe) / safe * skew + 0.5 * (np.sin(safe / 2) / (safe / 2)) ** 2 * (skew @ skew)


def rotation_vectors(rotations: Array) -> Array:
    """Return the rotation vectors (n, 3), radians, of rotations (n, 3, 3); stable up to an angle of pi."""
    r = rotations
    sine = np.stack([r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], axis=1) / 2
    length, cosine = np.sqrt((sine**2).sum(1)), (r[:, 0, 0] + r[:, 1, 1] + r[:, 2, 2] - 1) / 2
    angle = np.arctan2(length, cosine)
    vectors = sine * np.where(length < 1e-9, 1.0, angle / np.maximum(length, 1e-12))[:, None]
    if (near_pi := cosine < -0.9).any():  # near pi the sine does not determine the axis
        vectors[near_pi] = _rotation_vectors_near_pi(r[near_pi])
    return np.asarray(vectors)


def _rotation_vectors_near_pi(rotations: Array) -> Array:
    """Return the rotation vectors (n, 3) of rotations (n, 3, 3) by large angles, through quaternions."""
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
    return np.asarray((2 * np.arctan2(length, quaternion[:, 3]) / length)[:, None] * quaternion[:, :3])


def exp(tangents: Array) -> Array:
    """Return the matrices (n, 4, 4) of tangent vectors (n, 7)."""
    linear, v_matrix = _exponentials(tangents[:, :3], tangents[:, 6])
    result = np.zeros((len(tangents), 4, 4))
    result[:, :3, :3] = linear
    result[:, :3, 3] = (v_matrix @ tangents[:, 3:6, None])[..., 0]
    result[:, 3, 3] = 1
    return result


def log(matrices: Array) -> Array:
    """Return the tangent vectors (n, 7) of matrices (n, 4, 4)."""
    scale = scales(matrices)
    tangents = np.empty((len(matrices), 7))
    tangents[:, :3] = rotation_vectors(matrices[:, :3, :3] / scale[:, None, None])
    tangents[:, 6] = np.log(scale)
    _, v_matrix = _exponentials(tangents[:, :3], tangents[:, 6])
    tangents[:, 3:6] = np.linalg.solve(v_matrix, matrices[:, :3, 3, None])[..., 0]
    return tangents


def _exponentials(rotation: Array, log_scale: Array) -> tuple[Array, Array]:
    """Return exp(A) and V = (exp(A) - 1) / A, the mean of exp(t A) for t from 0 to 1, both (n, 3, 3).

    A = skew(w) + l I has the eigenvalues l and l +- i |w|, and the cube of skew(w) is -|w|^2 skew(w). Any function f
    of A is therefore f(l) I + Im f(l + i |w|) / |w| skew(w) + (f(l) - Re f(l + i |w|)) / |w|^2 skew(w)^2.
    """
    angle = np.sqrt((rotation**2).sum(1))
    skew = skews(rotation)
    eigenvalues = np.stack([log_scale + 0j, log_scale + 1j * angle])
    exp_minus_one = np.expm1(eigenvalues)
    is_small = np.abs(eigenvalues) < 1e-7
    mean = np.where(is_small, 1 + eigenvalues / 2, exp_minus_one / np.where(is_small, 1.0, eigenvalues))
    safe_angle = np.maximum(angle, 1e-30)
    f = np.stack([exp_minus_one + 1, mean])  # rows: exp(A), then V; columns: at l, then at l + i |w|
    terms = np.stack([f[:, 0].real, f[:, 1].imag / safe_angle, (f[:, 0] - f[:, 1]).real / safe_angle**2])
    basis = np.stack([np.broadcast_to(np.eye(3), skew.shape), skew, skew @ skew])
    linear, v_matrix = np.einsum("kfn,knij->fnij", terms, basis)
    return linear, v_matrix


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
    """Return covariances (n, 7, 7) of right perturbations of `matrices`, transported to left perturbations."""
    frames = adjoint(matrices)
    return np.asarray(frames @ covariances @ np.swapaxes(frames, 1, 2))
