"""Normal equations of images that see few of the points each, and share a camera; the points are eliminated first.

What is left after the Schur complement over the points couples only images that see the same points, and the camera
with all of them: a sparse block matrix with a narrow dense border.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import linalg

from vggt_ros.geometry.poses import Array

Index = NDArray[np.intp]
_FLOOR = 1e-9
"""Added to every diagonal, for images and points that nothing holds."""


@dataclass(frozen=True, eq=False)
class Jacobians:
    """Derivatives of the weighted residuals (m, 2) of observations.

    Attributes:
        residuals: (m, 2).
        by_pose: (m, 2, 6), by [rotation, translation] of the image.
        by_point: (m, 2, 3).
        by_camera: (m, 2, p), by the parameters of the camera that all images share.

    """

    residuals: Array
    by_pose: Array
    by_point: Array
    by_camera: Array


class SparseNormalEquations:
    """Normal equations of k images, n points, and p parameters of the camera.

    Attributes:
        camera, camera_gradient: (p, p) and (p,), to which priors may be added.

    """

    def __init__(self, image: Index, point: Index, size: tuple[int, int], jacobians: Jacobians) -> None:
        """Sum up over observations: their images and points (m,), of `size` k and n."""
        self._image, self._point, (self._images, self._points) = image, point, size
        pose, at, camera, residual = (jacobians.by_pose, jacobians.by_point, jacobians.by_camera,
                                      jacobians.residuals[..., None])
        self._pose = self._by_image(_product(pose, pose))
        self._pose_gradient = self._by_image(_product(pose, residual))[..., 0]
        self._at = self._by_point(_product(at, at))
        self._at_gradient = self._by_point(_product(at, residual))[..., 0]
        self._pose_at = _product(pose, at)  # of each observation
        self._camera_pose = self._by_image(_product(camera, pose))
        self._camera_at = self._by_point(_product(camera, at))
        self.camera = _product(camera, camera).sum(0)
        self.camera_gradient = _product(camera, residual).sum(0)[:, 0]
        self._between: Any = 0

    def add_between(self, first: Index, second: Index, by_pose: Array, errors: Array) -> None:
        """Add errors (p,) of pairs of images, with their derivatives (2, p, 6) by the poses of either."""
        rows = np.arange(len(errors))
        jacobian = sum(_blocks_of_rows(by_pose[side], rows, images, self._images)
                       for side, images in enumerate((first, second)))
        self._between = self._between + jacobian.T @ jacobian
        self._pose_gradient = self._pose_gradient + (jacobian.T @ errors).reshape(-1, 6)

    def step(self, damping: float) -> tuple[Array, Array, Array]:
        """Return a damped Gauss-Newton step of poses (k, 6), points (n, 3) and camera (p,); the first pose is fixed."""
        inverse = np.linalg.inv(_damped(self._at, damping))
        gain, camera_gain = self._pose_at @ inverse[self._point], self._camera_at @ inverse
        reduced = (_block_diagonal(_damped(self._pose, damping)) + self._between
                   - self._blocks(gain) @ self._blocks(self._pose_at).T)
        border = self._camera_pose - self._by_image(camera_gain[self._point] @ self._pose_at.swapaxes(1, 2))
        corner = _damped(self.camera, damping) - np.einsum("npi,nqi->pq", camera_gain, self._camera_at)
        right = self._pose_gradient - self._by_image(gain @ self._at_gradient[self._point][..., None])[..., 0]
        camera_right = self.camera_gradient - np.einsum("npi,ni->p", camera_gain, self._at_gradient)
        border = border.swapaxes(1, 2).reshape(6 * self._images, len(self.camera))[6:]
        factors = linalg.splu(reduced.tocsc()[6:, 6:], permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0,
                              options={"SymmetricMode": True})
        solved = factors.solve(np.column_stack([border, right.ravel()[6:]]))
        of_camera = -np.linalg.solve(corner - border.T @ solved[:, :-1], camera_right - border.T @ solved[:, -1])
        of_pose = np.zeros((self._images, 6))
        of_pose[1:] = (-solved[:, -1] - solved[:, :-1] @ of_camera).reshape(-1, 6)
        coupled = self._by_point((of_pose[self._image][:, None] @ self._pose_at)[:, 0])
        at = self._at_gradient + coupled + np.einsum("npi,p->ni", self._camera_at, of_camera)
        return of_pose, -(inverse @ at[..., None])[..., 0], of_camera

    @cached_property
    def _image_rows(self) -> Any:
        return _sums(self._image, self._images)

    @cached_property
    def _point_rows(self) -> Any:
        return _sums(self._point, self._points)

    def _by_image(self, values: Array) -> Array:
        return _summed(self._image_rows, values)

    def _by_point(self, values: Array) -> Array:
        return _summed(self._point_rows, values)

    def _blocks(self, values: Array) -> Any:
        """Return blocks (m, 6, 3) of the observations as a sparse matrix (6 k, 3 n)."""
        rows = self._image_rows
        return sparse.bsr_matrix((values[rows.indices], self._point[rows.indices], rows.indptr),
                                 shape=(6 * self._images, 3 * self._points))


def _blocks_of_rows(values: Array, rows: Index, images: Index, count: int) -> Any:
    """Return the sparse matrix (p, 6 count) with values (p, 6) in the columns of an image for each row."""
    columns = 6 * images[:, None] + np.arange(6)
    return sparse.csr_matrix((values.ravel(), (np.repeat(rows, 6), columns.ravel())), shape=(len(rows), 6 * count))


def _product(first: Array, second: Array) -> Array:
    """Return the products (m, i, j) of the derivatives (m, 2, i) and (m, 2, j) of each observation."""
    return first[:, 0, :, None] * second[:, 0, None] + first[:, 1, :, None] * second[:, 1, None]


def _sums(index: Index, count: int) -> Any:
    """Return the sparse matrix (count, m) that sums up what has the same index (m,)."""
    return sparse.csr_matrix((np.ones(len(index)), (index, np.arange(len(index)))), shape=(count, len(index)))


def _summed(sums: Any, values: Array) -> Array:
    """Return the sums (count, ...) of values (m, ...)."""
    shape = values.shape[1:]
    return np.asarray((sums @ values.reshape(len(values), int(np.prod(shape)))).reshape(sums.shape[0], *shape))


def _damped(blocks: Array, damping: float) -> Array:
    """Return square blocks (..., i, i) with their diagonals larger by a share of `damping`."""
    return np.asarray(blocks + np.eye(blocks.shape[-1]) * (damping * blocks + _FLOOR))


def _block_diagonal(blocks: Array) -> Any:
    return sparse.bsr_matrix((blocks, np.arange(len(blocks)), np.arange(len(blocks) + 1)))
