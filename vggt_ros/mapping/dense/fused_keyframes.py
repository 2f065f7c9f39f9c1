"""The fused depth of all keyframes of a map, fused again where poses or neighbors changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.complementary import complementary
from vggt_ros.geometry.poses import Array
from vggt_ros.mapping.dense.depth_factors import DepthFactors
from vggt_ros.mapping.dense.depth_fusion import DepthView, fuse, log_ratios
from vggt_ros.threads import yield_to_tracking
from vggt_ros.windows.solution import MapKeyframe, Solution

_NEIGHBORS = 6
"""Most keyframes that the depth of one is compared with because they see most of it."""
_ENOUGH = 1.0
"""Sum of what neighbors are worth for a point, each at most 1, that is worth twice what is added."""
_CANDIDATES = 48
"""Keyframes that see most of it, among which they are chosen."""
_NEWER = 3
"""Most others that are newer, rather the newest ones, which show what is gone."""
_SAMPLES = 64
"""Points of a keyframe by which its overlap with others is estimated."""
_MIN_OVERLAP = 0.3
"""Least fraction of the points of a keyframe that lie in the image of a neighbor."""
_ENOUGH_BASELINE = 0.05
"""Distance to a neighbor, over the median depth, from which on it is as good as one farther away."""
_MIN_NEWS = 3
"""A keyframe is fused again when so many new keyframes have it as their neighbor."""
_MAX_VIEWS = 64
"""Keyframes whose depth in map units is kept while others are fused, 0.25 MB each."""
_MAX_CHANGE = 0.01
"""A keyframe is fused again when a factor, or the depth that a neighbor should see, changed by about this fraction."""


@dataclass(frozen=True, eq=False)
class _Fused:
    """A keyframe with fused depth, and from what it was fused.

    Attributes:
        stored: as in the solution.
        fused: with fused depth and confidence.
        neighbors: int64 (m,), ids.
        relative: float64 (m, 4, 4), poses of the neighbors in the keyframe's frame, in units of its window.
        log_scale: float64 (m,), logarithm of the scale of each neighbor's window over that of its own.
        log_factors: float64 (m, 2), logarithms of its factor and of that of each neighbor; see `DepthFactors`.

    """

    stored: MapKeyframe
    fused: MapKeyframe
    neighbors: NDArray[np.int64]
    relative: Array
    log_scale: Array
    log_factors: Array


class FusedKeyframes:
    """The keyframes of a map with fused depth; to be used on the thread that owns the map.

    Attributes:
        fusions: how often the depth of a keyframe was fused.

    """

    def __init__(self) -> None:
        """Begin without keyframes."""
        self._fused: dict[int, _Fused] = {}
        self._factors = DepthFactors()
        self._news: dict[int, int] = defaultdict(int)  # new keyframes since a keyframe was fused that it overlaps with
        self._neighbors: dict[int, NDArray[np.int64]] = {}  # of keyframes that are being fused
        self.fusions = 0

    def __getitem__(self, keyframe: int) -> MapKeyframe:
        """Return a keyframe with fused depth and confidence; the same object until it is fused again."""
        return self._fused[keyframe].fused

    def update(self, solution: Solution, limit: int | None = None) -> set[int]:
        """Fuse the keyframes that are new in a solution, and at most `limit` of those that changed; return both.

        Those whose poses relative to their neighbors, or factors, changed most come first. The others keep their depth
        until later.
        """
        for keyframe in [k for k, one in self._fused.items() if not _has_depth(solution, k, one.stored)]:
            del self._fused[keyframe]
            self._factors.forget(keyframe)
            self._news.pop(keyframe, None)
        new = [k for k in solution.ids.tolist() if k not in self._fused]
        views: dict[int, DepthView] = {}
        for keyframe in new:
            for other in self._measure(keyframe, solution, views):
                self._news[other] += 1
        self._factors.settle(complete=limit is None)
        for keyframe in new:
            self._fuse(keyframe, solution, views)
        urgency = self._changes(solution)
        stale = sorted((k for k in urgency if urgency[k] >= 1), key=lambda k: -urgency[k])[:limit]
        for keyframe in stale:
            self._measure(keyframe, solution, views)
            self._fuse(keyframe, solution, views)
        return set(new) | set(stale)

    def _changes(self, solution: Solution) -> dict[int, float]:
        """Return for each keyframe how much changed since it was fused; with 1 or more it is to be fused again."""
        urgency = {k: news / _MIN_NEWS for k, news in self._news.items() if k in self._fused}
        pairs = [(k, len(one.neighbors)) for k, one in self._fused.items() if len(one.neighbors)]
        if not pairs:
            return urgency
        owners = np.repeat([k for k, _ in pairs], [count for _, count in pairs])
        ones = [self._fused[k] for k, _ in pairs]
        others = np.concatenate([one.neighbors for one in ones])
        present = np.isin(others, solution.ids)
        row, other = np.searchsorted(solution.ids, owners), np.searchsorted(solution.ids, others)
        other[~present] = row[~present]
        relative, log_scale = _relative(solution, row, other)
        before = np.concatenate([one.relative for one in ones])
        depth = np.repeat([max(one.stored.median_depth, 1e-6) for one in ones], [count for _, count in pairs])
        change = (np.linalg.norm(relative[:, :3, 3] - before[:, :3, 3], axis=1) / depth
                  + np.linalg.norm(relative[:, :3, :3] - before[:, :3, :3], axis=(1, 2)) / np.sqrt(2)
                  + np.abs(log_scale - np.concatenate([one.log_scale for one in ones])))
        logarithms = np.array([self._factors[k] for k in solution.ids.tolist()])
        factors = np.stack([logarithms[row], logarithms[other]], axis=1)
        change += np.abs(factors - np.concatenate([one.log_factors for one in ones])).max(1)
        change[~present] = 0
        for keyframe, value in zip(owners.tolist(), (change / _MAX_CHANGE).tolist(), strict=True):
            urgency[keyframe] = max(urgency.get(keyframe, 0.0), value)
        return urgency

    def _measure(self, keyframe: int, solution: Solution, views: dict[int, DepthView]) -> list[int]:
        """Measure the ratios of a keyframe's depth to that of its neighbors; return keyframes that it overlaps with."""
        yield_to_tracking()
        row = solution.row(keyframe)
        rows, overlapping = _neighbors(solution, row)
        self._neighbors[keyframe] = solution.ids[rows]
        view, *others = self._views((keyframe, *solution.ids[rows].tolist()), solution, views)
        ratios = log_ratios(view, others)
        self._factors.measure(keyframe, {other.time: ratio for other, ratio in zip(others, ratios, strict=True)
                                         if ratio is not None})
        return [int(k) for k in solution.ids[overlapping]]

    def _fuse(self, keyframe: int, solution: Solution, views: dict[int, DepthView]) -> None:
        """Fuse the depth of a keyframe with that of the neighbors to which it was measured."""
        yield_to_tracking()
        self.fusions += 1
        self._news.pop(keyframe, None)
        neighbors = self._neighbors.pop(keyframe)
        view, *others = self._views((keyframe, *neighbors.tolist()), solution, views)
        factors = np.array([[view.log_factor, other.log_factor] for other in others]).reshape(-1, 2)
        result = fuse(view, others)
        rows = np.searchsorted(solution.ids, [keyframe, *neighbors])
        stored, scale = solution.keyframes[keyframe], np.float32(solution.scale[rows[0]])
        with np.errstate(over="ignore"):
            depth = np.where(result.depth > 0, result.depth / scale, np.float32(np.nan)).astype(np.float16)
        depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
        confidence = np.rint(255 * result.confidence).astype(np.uint8)
        fused = replace(stored, depth=depth, confidence=confidence)
        relative, log_scale = _relative(solution, np.full(len(neighbors), rows[0]), rows[1:])
        self._fused[keyframe] = _Fused(stored, fused, neighbors, relative, log_scale, factors)

    def _views(self, keyframes: Sequence[int], solution: Solution, views: dict[int, DepthView]) -> list[DepthView]:
        """Return the depth of keyframes with their factors; without these it is kept in `views`."""
        if len(views) > _MAX_VIEWS:
            views.clear()
        for keyframe in keyframes:
            if keyframe not in views:
                views[keyframe] = self._view(keyframe, solution)
        return [views[k].corrected(self._factors[k]) for k in keyframes]

    def _view(self, keyframe: int, solution: Solution) -> DepthView:
        stored = solution.keyframes[keyframe]
        return DepthView(solution.map_camera[solution.row(keyframe)], stored.intrinsics,
                         np.nan_to_num(solution.depth(keyframe)),
                         stored.confidence.astype(np.float32) / np.float32(255), keyframe)


def _has_depth(solution: Solution, keyframe: int, stored: MapKeyframe) -> bool:
    """Return True if a keyframe is solved, with the same depth; its features come a little later than its depth."""
    return solution.index(keyframe) is not None and solution.keyframes[keyframe].depth is stored.depth


def _relative(solution: Solution, rows: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return poses (m, 4, 4) of other keyframes in the frame of each, in its window's units, and log scales (m,)."""
    one, other = solution.map_camera[rows], solution.map_camera[others]
    turned = one[:, :3, :3].transpose(0, 2, 1)
    relative = np.zeros((len(rows), 4, 4))
    relative[:, :3, :3] = turned @ other[:, :3, :3]
    relative[:, :3, 3] = ((turned @ (other[:, :3, 3] - one[:, :3, 3])[:, :, None])[:, :, 0]
                          / solution.scale[rows, None])
    relative[:, 3, 3] = 1
    return relative, np.log(solution.scale[others] / solution.scale[rows])


def _neighbors(solution: Solution, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of the neighbors of a keyframe, and of all keyframes that it overlaps with.

    Neighbors are those with much overlap, far enough away to see its errors, which see all parts of it; and newer ones.
    """
    keyframe = solution.keyframes[int(solution.ids[row])]
    height, width = keyframe.depth.shape
    step = max(1, round((height * width / _SAMPLES) ** 0.5))
    depth = keyframe.depth[step // 2::step, step // 2::step].astype(np.float64) * solution.scale[row]
    rows, columns = np.nonzero(depth > 0)
    if not len(rows):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    pixels = np.stack([columns * step + step // 2, rows * step + step // 2, np.ones(len(rows))])
    points = (np.linalg.inv(keyframe.intrinsics) @ pixels) * depth[rows, columns]
    camera = solution.map_camera[row]
    world = camera[:3, :3] @ points + camera[:3, 3:]
    # All keyframes have the intrinsics of one camera, so nearly the same field of view.
    rotation, center = solution.map_camera[:, :3, :3], solution.map_camera[:, :3, 3]
    seen = rotation.transpose(0, 2, 1) @ (world[None] - center[:, :, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = seen[:, 0] / seen[:, 2], seen[:, 1] / seen[:, 2]
    low, high = (np.linalg.inv(keyframe.intrinsics) @ [(-0.5, width - 0.5), (-0.5, height - 0.5), (1, 1)]).T
    inside = (seen[:, 2] > 0) & (x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1])
    overlap = inside.mean(1)
    baseline = np.linalg.norm(center - center[row], axis=1) / np.median(depth[rows, columns])
    overlap[row] = 0
    overlap[solution.submaps != solution.submaps[row]] = 0  # their relative pose is not known
    apart = np.minimum(baseline / _ENOUGH_BASELINE, 1)
    score = np.where(overlap > _MIN_OVERLAP, overlap * apart, 0)
    candidates = np.argsort(-score, kind="stable")[:_CANDIDATES]
    candidates = candidates[score[candidates] > 0]
    best = candidates[complementary(inside[candidates] * apart[candidates, None], _NEIGHBORS, _ENOUGH)]
    overlapping = np.flatnonzero(overlap > _MIN_OVERLAP)
    newer = np.setdiff1d(overlapping[solution.ids[overlapping] > solution.ids[row]], best)
    preference = overlap[newer] * (1 + np.arange(len(newer)) / max(len(newer), 1))
    return np.concatenate([best, newer[np.argsort(-preference, kind="stable")[:_NEWER]]]), overlapping
