"""Normal equations of cameras and points, and how the points are eliminated (Schur complement).

In the arrays the points are the last, contiguous axis, so that numpy's inner loops are long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vggt_ros.geometry.poses import Array

_ROUNDING = 1e-15
"""Relative size below which a pivot is a rounding error."""


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

    def reduced(self, damping: float) -> tuple[Array, Array]:
        """Return the system without the points: matrix (c, c) and right side (c,)."""
        return self._reduced(*self._whitened(damping), damping)

    def solve(self, damping: float) -> tuple[Array, Array]:
        """Return the damped Gauss-Newton step of the cameras (c,) and of the points (3, n)."""
        root, coupling, right = self._whitened(damping)
        cameras = np.asarray(-np.linalg.solve(*self._reduced(root, coupling, right, damping)), np.float64)
        x, y, z = right + np.tensordot(cameras, coupling, 1)
        return cameras, -np.stack([root[0, 0] * x + root[0, 1] * y + root[0, 2] * z,
                                   root[1, 1] * y + root[1, 2] * z, root[2, 2] * z])

    def _whitened(self, damping: float) -> tuple[Array, Array, Array]:
        """Return upper triangular roots (3, 3, n) of the inverse point blocks, and `coupling` and gradient times them.

        The product of a root and its transpose is the inverse of the damped block.
        """
        root = _inverse_root(self.points + np.eye(3)[..., None] * (damping * self.points + 1e-9))
        return root, _times_upper(self.coupling, root), _times_upper(self.points_gradient[None], root)[0]

    def _reduced(self, root: Array, coupling: Array, right: Array, damping: float) -> tuple[Array, Array]:
        """Return what `reduced` does, by what `_whitened` returns."""
        size = len(self.cameras)
        flat = coupling.reshape(size, -1)
        matrix = self.cameras - flat @ flat.T  # BLAS computes one half of a product with its own transpose
        matrix[np.diag_indices(size)] += damping * np.diag(self.cameras) + 1e-9
        return matrix, self.cameras_gradient - flat @ right.ravel()


def _times_upper(rows: Array, matrices: Array) -> Array:
    """Return row vectors (c, 3, n) times one upper triangular matrix per point (3, 3, n)."""
    result = np.empty_like(rows)
    np.multiply(rows[:, 0], matrices[0, 0], out=result[:, 0])
    np.multiply(rows[:, 0], matrices[0, 1], out=result[:, 1])
    result[:, 1] += rows[:, 1] * matrices[1, 1]
    np.multiply(rows[:, 0], matrices[0, 2], out=result[:, 2])
    result[:, 2] += rows[:, 1] * matrices[1, 2]
    result[:, 2] += rows[:, 2] * matrices[2, 2]
    return result


def _inverse_root(matrices: Array) -> Array:
    """Return upper triangular R (3, 3, n) with R R^T the inverse of positive definite matrices (3, 3, n) (Cholesky)."""
    (a, b, c), (_, d, e), (_, _, f) = matrices
    result = np.zeros_like(matrices)
    x = 1 / np.sqrt(a)
    b, c = b * x, c * x
    y = 1 / np.sqrt(np.maximum(d - b * b, _ROUNDING * d))
    e = (e - b * c) * y
    z = 1 / np.sqrt(np.maximum(f - c * c - e * e, _ROUNDING * f))
    result[0, 0], result[1, 1], result[2, 2] = x, y, z
    result[0, 1], result[1, 2] = -b * x * y, -e * y * z
    result[0, 2] = (b * e * y - c) * x * z
    return result
