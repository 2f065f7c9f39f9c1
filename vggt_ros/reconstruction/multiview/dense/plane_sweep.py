"""Dense inverse depth of a keyframe by a plane sweep, which needs no first guess and fills in where texture is weak.

The neighbors are warped into the keyframe at a set of inverse depths (plane sweep: Collins, A Space-Sweep Approach to
True Multi-Image Matching, CVPR 1996) and compared by the normalized correlation of the images without their local
means, which depends neither on gain and offset of the brightness, nor much on what is behind an edge. The costs are
aggregated by semi-global matching along four paths (Hirschmueller, Stereo Processing by Semiglobal Matching and Mutual
Information, PAMI 2008), in which the sparse points take part. It runs at low resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import reduced_size, resize_intrinsics
from vggt_ros.geometry.poses import Array, inverse

Map = NDArray[np.float32]
Gray = NDArray[np.uint8]

WIDTH = 176
"""Width of the images that are compared, pixels, see `reduced_size`."""
STEP = 2.0
"""Motion of a typical pixel from plane to plane in the neighbor with the most parallax, pixels of the small images."""
MIN_PLANES, MAX_PLANES = 16, 48
"""Bounds of the number of planes."""
NEAR, FAR = 0.7, 2.5
"""Range of depth: from this factor of the nearest sparse points to this factor of the farthest."""
PATCH = 5
"""Edge of the patches that are correlated, pixels."""
MEAN_PATCH = 5
"""Edge of the patches whose mean brightness is subtracted before, pixels."""
NOISE_VARIANCE = np.float32(13.0)
"""Variance of the gray values in a patch without texture: its correlation says little."""
UNKNOWN_COST = np.float32(0.5)
"""Cost (0 to 1) of uncorrelated patches, and of a pixel that no neighbor sees."""
STEP_PENALTY, JUMP_PENALTY = np.float32(0.13), np.float32(1.2)
"""Costs of a change by one plane, and by more, from pixel to pixel; the latter where both have the same brightness."""
EDGE = np.float32(8.0)
"""Change of the gray value from pixel to pixel that halves the cost of a jump."""
POINT_COST, POINT_TOLERANCE = np.float32(0.5), 3.0
"""Cost of each plane between a pixel's depth and the sparse point seen in it, up to this many planes."""
SMOOTHING, SMOOTHING_PASSES = 3.0, 2
"""Bilateral smoothing of the result: radius in pixels, which removes the steps of the planes, and how often."""
PLANE_SIGMA, AMBIGUITY_SIGMA, COST_FLOOR = 0.22, 0.19, 0.03
"""Standard deviation in planes: the first, and the second times (cost + floor) / (margin to the next best + floor)."""
_TINY = np.float32(1e-6)
_WHOLE = 2048
"""Costs are aggregated as multiples of one over this, in 16 bits: sums of four paths are less than 16."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """Inverse depth (h, w), its standard deviation, NaN where no neighbor sees the pixel, and the step of planes."""

    inverse_depth: Map
    sigma: Map
    step: float

    def resized(self, shape: tuple[int, ...]) -> Sweep:
        """Return it in another size (h, w), interpolated except across edges of depth."""
        size = shape[1], shape[0]
        smooth = cv2.resize(self.inverse_depth, size, interpolation=cv2.INTER_LINEAR)
        nearest = cv2.resize(self.inverse_depth, size, interpolation=cv2.INTER_NEAREST)
        return Sweep(np.where(np.abs(smooth - nearest) > self.step, nearest, smooth),
                     np.asarray(cv2.resize(self.sigma, size, interpolation=cv2.INTER_NEAREST), np.float32), self.step)


class SmallImages:
    """The images of a window in the size that is compared, prepared when they are first used.

    Attributes:
        intrinsics: (S, 3, 3) for this size.

    """

    def __init__(self, grays: NDArray[np.uint8], intrinsics: Array) -> None:
        """Take the images, uint8 (S, h, w), and their intrinsics (S, 3, 3)."""
        height, width = grays.shape[1:]
        self._grays, self._size = grays, reduced_size(width, height, WIDTH)
        self._prepared: dict[int, tuple[Map, _Texture]] = {}
        self.shape = grays.shape[1:]
        self.intrinsics = np.array([resize_intrinsics(matrix, self._size[0] / width, self._size[1] / height)
                                    for matrix in intrinsics])

    def __getitem__(self, row: int) -> tuple[Map, _Texture]:
        """Return an image, float32, and its texture."""
        if row not in self._prepared:
            image = cv2.resize(self._grays[row], self._size, interpolation=cv2.INTER_AREA).astype(np.float32)
            self._prepared[row] = image, _Texture(image)
        return self._prepared[row]


def sweep(images: SmallImages, window_camera: Array, points_camera: Array, index: int, others: Sequence[int]) -> Sweep:
    """Return the inverse depth of keyframe `index` by its neighbors `others`, in the size of the full images.

    Args:
        images: of the window, in the order of time.
        window_camera: (S, 4, 4).
        points_camera: sparse points (n, 3) of the keyframe in its camera frame; they give the range of depth, and
            guide the aggregation.
        index: the keyframe.
        others: at least one.

    """
    matrices, (image, texture) = images.intrinsics, images[index]
    others_camera = {row: inverse(window_camera[row]) @ window_camera[index] for row in others}
    planes = _planes(points_camera, matrices[index], [inverse(motion)[:3, 3] for motion in others_camera.values()])
    unturned, first = np.linalg.inv(matrices[index]), _one_side(index, others)
    costs = _Costs(texture, [
        _Neighbor(images[row][1], matrices[row] @ others_camera[row][:3, :3] @ unturned,
                  matrices[row] @ others_camera[row][:3, 3], row in first) for row in others])
    cost = np.empty((len(planes), *image.shape), np.float32)
    for one, at in zip(cost, planes, strict=True):
        costs.at(float(at), one)
    seen = np.isfinite(cost)
    cost[~seen] = UNKNOWN_COST
    _guide(cost, points_camera, matrices[index], planes)
    inverse_depth, sigma, plane = _best(aggregate(cost, image), planes)
    known = np.take_along_axis(seen, plane[None], 0)[0]
    step = float(planes[1] - planes[0])
    result = Sweep(_smooth(inverse_depth, step), np.where(known, sigma, np.float32(np.nan)), step)
    return result.resized(images.shape)


def _planes(points: Array, matrix: Array, centers: Sequence[Array]) -> Array:
    """Return the inverse depths, equidistant; `centers` are those of the neighbors in the camera frame of `points`."""
    depth = points[points[:, 2] > 0, 2]
    lowest, highest = 1 / (FAR * np.percentile(depth, 98)), 1 / (NEAR * np.percentile(depth, 1))
    rays = points[:, :2] / points[:, 2:]
    focal = matrix[[0, 1], [0, 1]]
    rate = max(float(np.median(np.linalg.norm(focal * (rays * center[2] - center[:2]), axis=1))) for center in centers)
    count = int(np.clip(np.ceil((highest - lowest) * rate / STEP), MIN_PLANES, MAX_PLANES))
    return np.linspace(lowest, highest, count)


class _Texture:
    """An image, float32 (h, w), without its local mean, and the inverse of the local standard deviation of the rest.

    `normalized` is the product of both. It is 0 nowhere, so that 0 is outside of the image after a warp.
    """

    def __init__(self, image: Map) -> None:
        self.detail = np.asarray(image - cv2.boxFilter(image, -1, (MEAN_PATCH, MEAN_PATCH)), np.float32)
        variance = cv2.boxFilter(self.detail * self.detail, -1, (PATCH, PATCH))
        self.scale = np.asarray(1 / np.sqrt(variance + NOISE_VARIANCE), np.float32)
        self.normalized = self.detail * self.scale
        self.normalized[self.normalized == 0] = _TINY


@dataclass(frozen=True, eq=False)
class _Neighbor:
    """A neighbor's texture, and the homography of a keyframe's pixels to its: `rotation + inverse depth * shift`.

    `side` is one of two groups: what is hidden from one of them is often seen by the other.
    """

    texture: _Texture
    rotation: Array
    shift: Array
    side: bool


def _one_side(index: int, others: Sequence[int]) -> set[int]:
    """Return the earlier ones of the neighbors of a keyframe; if all are on one side, the half that is nearer in time.

    Edges hide less from those that are nearer.
    """
    earlier = {row for row in others if row < index}
    if 0 < len(earlier) < len(others):
        return earlier
    return set(sorted(others, key=lambda row: abs(row - index))[:(len(others) + 1) // 2])


class _Costs:
    """The costs (1 - correlation) / 2 of an image's pixels (h, w) by its neighbors, plane after plane.

    All work is done in a few arrays that stay in the processor's cache: allocating them takes longer than the sums.
    """

    def __init__(self, texture: _Texture, neighbors: Sequence[_Neighbor]) -> None:
        self._texture = texture
        self._sides = [[one for one in neighbors if one.side == side] for side in (True, False)]
        self._warped, self._sum, self._mean = (np.empty_like(texture.detail) for _ in range(3))
        self._outside, self._unseen = np.empty(texture.detail.shape, np.bool_), np.empty(texture.detail.shape, np.uint8)

    def at(self, inverse_depth: float, cost: Map) -> None:
        """Write into `cost` (h, w) those of a plane, infinite where no neighbor sees the pixel.

        The better of the means of the two sides counts.
        """
        cost.fill(np.inf)
        for side in self._sides:
            self._sum.fill(0)
            self._unseen.fill(0)
            for neighbor in side:
                self._add(neighbor, inverse_depth)
            # Patches at the border of a neighbor's image have the part that it shows.
            cv2.boxFilter(self._sum, -1, (PATCH, PATCH), self._mean)
            np.multiply(self._mean, self._texture.scale, out=self._mean)  # the sum of the correlations
            np.subtract(np.float32(len(side)), self._unseen, out=self._sum)
            np.equal(self._sum, 0, out=self._outside)
            np.copyto(self._sum, 1, where=self._outside)
            np.divide(self._mean, self._sum, out=self._mean)
            np.subtract(1, self._mean, out=self._mean)
            np.copyto(self._mean, np.inf, where=self._outside)
            np.minimum(cost, self._mean, out=cost)
        np.multiply(cost, np.float32(0.5), out=cost)

    def _add(self, neighbor: _Neighbor, inverse_depth: float) -> None:
        """Add the products of a neighbor's pixels and those of the keyframe, and 1 to `_unseen` where it sees none."""
        homography = neighbor.rotation.copy()
        homography[:, 2] += inverse_depth * neighbor.shift
        cv2.warpPerspective(neighbor.texture.normalized, homography, self._sum.shape[::-1], self._warped,
                            cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)  # 0 outside of the neighbor
        np.equal(self._warped, 0, out=self._outside)
        np.add(self._unseen, self._outside.view(np.uint8), out=self._unseen)
        cv2.accumulateProduct(self._warped, self._texture.detail, self._sum)


def _guide(cost: Map, points: Array, matrix: Array, planes: Array) -> None:
    """Add the cost of contradicting the sparse points (n, 3) to the costs (n planes, h, w) of their pixels."""
    points = points[points[:, 2] > 0]
    column, row = np.rint(points[:, :2] / points[:, 2:] * matrix[[0, 1], [0, 1]] + matrix[:2, 2]).astype(int).T
    inside = (column >= 0) & (column < cost.shape[2]) & (row >= 0) & (row < cost.shape[1])
    difference = np.abs(planes[:, None] - 1 / points[inside, 2]) / (planes[1] - planes[0])
    cost[:, row[inside], column[inside]] += POINT_COST * np.minimum(difference, POINT_TOLERANCE).astype(np.float32)


def aggregate(cost: Map, image: Map) -> Map:
    """Return the costs (n, h, w) of n planes, the mean of four paths that jump at edges of `image` (h, w)."""
    whole = np.rint(cost * np.float32(_WHOLE)).astype(np.int16)
    total = _paths(whole.transpose(1, 0, 2), image)
    total += _paths(whole.transpose(2, 0, 1), image.T).transpose(2, 1, 0)
    return np.multiply(total.transpose(1, 0, 2), np.float32(0.25 / _WHOLE), order="C")


def _paths(cost: NDArray[np.int16], image: Map) -> NDArray[np.int16]:
    """Return the sum of the costs (h, n, w) aggregated downward and upward from row to row; `image` is (h, w)."""
    height, count, width = cost.shape
    result = np.empty((height, count, 2 * width), np.int16)  # both directions side by side, upward in reverse order
    result[..., :width], result[..., width:] = cost, cost[::-1]
    change = np.abs(np.diff(image, axis=0))
    jump = np.rint(_WHOLE * JUMP_PENALTY / (1 + np.concatenate([change, change[::-1]], 1) / EDGE)).astype(np.int16)
    step = np.int16(_WHOLE * STEP_PENALTY)
    padded = np.full((count + 2, 2 * width), np.iinfo(np.int16).max, np.int16)
    before = padded[1:-1]
    best = np.empty_like(before)
    for row in range(1, height):
        np.subtract(result[row - 1], result[row - 1].min(0), out=before)
        np.minimum(padded[:-2], padded[2:], out=best)
        best += step
        np.minimum(best, before, out=best)
        np.minimum(best, jump[row - 1], out=best)
        result[row] += best
    return np.asarray(result[..., :width] + result[::-1, :, width:], np.int16)


def _best(cost: Map, planes: Array) -> tuple[Map, Map, NDArray[np.intp]]:
    """Return the inverse depth of least cost (h, w), interpolated between planes, its standard deviation and plane.

    `cost` (n, h, w) is overwritten.
    """
    count = len(planes)
    lowest = cost.min(0)
    plane = np.zeros(lowest.shape, np.intp)
    for row in range(count - 1, -1, -1):
        plane[cost[row] == lowest] = row
    center = np.clip(plane, 1, count - 2)
    below, least, above = (np.take_along_axis(cost, (center + step)[None], 0)[0] for step in (-1, 0, 1))
    curvature = below - 2 * least + above
    offset = np.where(curvature > 1e-9, (below - above) / (2 * np.maximum(curvature, np.float32(1e-9))), 0)
    position = np.where(plane == center, center + np.clip(offset, -0.5, 0.5), plane)
    for step in (-1, 0, 1):
        np.put_along_axis(cost, np.clip(plane + step, 0, count - 1)[None], np.inf, 0)
    margin = cost.min(0) - lowest
    ambiguity = (lowest + COST_FLOOR) / (margin + COST_FLOOR)
    step = planes[1] - planes[0]
    return ((planes[0] + position * step).astype(np.float32),
            ((PLANE_SIGMA + AMBIGUITY_SIGMA * ambiguity) * step).astype(np.float32), plane)


def _smooth(inverse_depth: Map, step: float) -> Map:
    """Return inverse depth (h, w) smoothed where it changes by less than the `step` between planes."""
    planes = inverse_depth / np.float32(step)
    for _ in range(SMOOTHING_PASSES):
        planes = cv2.bilateralFilter(planes, int(3 * SMOOTHING), 1.0, SMOOTHING)
    return np.asarray(planes * np.float32(step), np.float32)
