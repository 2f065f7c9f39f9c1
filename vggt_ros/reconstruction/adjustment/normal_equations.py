"""Normal equations of cameras and points, and how the points are eliminated (Schur complement).

In the arrays the points are the last, contiguous axis, so that numpy's inner loops are long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry.poses import Array


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Weighted normal equations of c parameters of the free cameras and n points.

    Attributes:
        cameras: (c, c), with the gradient (c,).
        points: (3, 3, n), with the gradient (3, n).
        coupling: (c, 3, n).

    """

    cameras: Array
    cameras_gradient: Array
    points: Array
    points_gradient: Array
    coupling: Array

    def reduced(self, damping: float) -> tuple[Array, Array, Array]:
        """Return the system without the points: matrix (c, c), right side (c,), and inverse point blocks (3, 3, n)."""
        inverse = _invert_symmetric(self.points + np.eye(3)[..., None] * (damping * self.points + 1e-9))
        gain, size = multiply_per_point(self.coupling, inverse), len(self.cameras)
        matrix = self.cameras - gain.reshape(size, -1) @ self.coupling.reshape(size, -1).T
        matrix[np.diag_indices(size)] += damping * np.diag(self.cameras) + 1e-9
        return matrix, self.cameras_gradient - gain.reshape(size, -1) @ self.points_gradient.ravel(), inverse

    def solve(self, damping: float) -> tuple[Array, Array]:
        """Return the damped Gauss-Newton step of the cameras (c,) and of the points (3, n)."""
        matrix, right, inverse = self.reduced(damping)
        cameras = np.asarray(-np.linalg.solve(matrix, right), np.float64)
        points = self.points_gradient + np.tensordot(cameras, self.coupling, 1)
        return cameras, -multiply_per_point(points[None], inverse)[0]


def sum_over_rows(first: Array, second: Array) -> Array:
    """Return the products (..., n) of two Jacobians (..., 2, n), summed over the two rows of a residual."""
    return first[..., 0, :] * second[..., 0, :] + first[..., 1, :] * second[..., 1, :]


def multiply_per_point(rows: Array, matrices: Array) -> Array:
    """Return row vectors (c, 3, n) times one matrix per point (3, 3, n)."""
    return rows[:, 0, None] * matrices[0] + rows[:, 1, None] * matrices[1] + rows[:, 2, None] * matrices[2]


def _invert_symmetric(matrices: Array) -> Array:
    """Return the inverses of symmetric matrices (3, 3, n), by cofactors."""
    (a, b, c), (_, d, e), (_, _, f) = matrices
    result = np.empty_like(matrices)
    result[0, 0], result[1, 1], result[2, 2] = d * f - e * e, a * f - c * c, a * d - b * b
    result[0, 1] = result[1, 0] = c * e - b * f
    result[0, 2] = result[2, 0] = b * e - c * d
    result[1, 2] = result[2, 1] = b * c - a * e
    return result / (a * result[0, 0] + b * result[0, 1] + c * result[0, 2])
