"""Depth that agrees: each keyframe's depth checked against that of its neighbors, and averaged where they agree.

Every pixel of a keyframe is projected into its neighbors and compared with the depth there (Merrell et al. 2007,
"Real-time visibility-based fusion of depth maps"). A neighbor that has about the same depth supports it. One that sees
through it, to something behind it, contradicts it: so flying pixels at edges are found, and the fans of a keyframe
whose depth is wrong. One that has something in front of it says nothing. Votes are counted, not weighed by confidence:
where texture is weak confidence is low, but depth that several windows found independently is right. The mean of those
that agree is weighed.

An edge of depth that is smeared looks like a surface along the rays, on which neighbors with about the same view agree:
many have to (`smeared_edges`).

What moved is gone: a point that nobody has seen since later keyframes saw clearly through it is dropped, however many
saw it before. If it is seen again, it is back.

How far depths may differ follows from how much those of two keyframes do at about the same depth, so that the same
rule serves any reconstructor. The depth of a whole keyframe may be wrong by a factor: `depth_factors` finds it by the
median ratios to its neighbors, which see the same surface from elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.median import median, median_of_sorted
from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.mapping.dense.smeared_edges import smeared

_MIN_TOLERANCE, _MAX_TOLERANCE = 0.02, 0.12
"""Range of the difference of two logarithms of depth up to which they agree."""
_UNKNOWN_TOLERANCE = 0.08
"""The same where too few pixels are in common to estimate it."""
_BINS = 4
"""Ranges of depth, with as many pixels each, to which the noise of the differences is fitted."""
_TOLERANCE_SIGMAS = 1.5
"""The difference up to which depths agree, in robust sigmas of the differences of two keyframes."""
_SEEN_THROUGH = 1.5
"""A neighbor sees through a point that is nearer than what it sees by more than this many tolerances."""
_CLEARLY_THROUGH = 0.07
"""Difference of the logarithms of depth from which on a later keyframe shows that a point is gone, at least."""
_GONE = 2
"""Later keyframes that have to see clearly through a point that is gone."""
_CAME = 2
"""Others that have to see a point that was seen through before they first did."""
_MAX_RATIO = 0.15
"""Larger differences of the logarithms say nothing about the factor and the noise of a keyframe's depth."""
_MIN_COMMON = 50
"""Fewest confident pixels in common from which the factor and the noise are estimated."""
_SUPPORT, _THROUGH = np.float32(0.5), np.float32(1.0)
"""Weights of a neighbor that has about the same depth, and of one that sees through the point; the rank has 1."""
_SMEARED = np.float32(3.0)
"""Weight by which a pixel counts less that may be between two surfaces: six more neighbors have to agree."""
_FULL_SCORE = 4.0
"""Weighted sum at which the confidence of fused depth is 1."""
_LEAST_WEIGHT = np.float32(0.05)
"""Least confidence with which depth is averaged."""
_EDGE = 0.05
"""Depth is not interpolated where it differs from that of the nearest pixel by more than this fraction."""
_COLUMNS = 1024
"""Width of the table of positions for which depth is interpolated at once."""
_SAMPLE = 8
"""Every n-th pixel of those in common is used for the medians."""


@dataclass(frozen=True, eq=False)
class DepthView:
    """Depth of a keyframe with its pose.

    Attributes:
        map_camera: pose 4x4.
        intrinsics: float64 (3, 3), for the size of `depth`.
        depth: float32 (h, w), map units along the optical axis; 0 where unknown.
        confidence: float32 (h, w), rank in [0, 1].
        time: rises from a keyframe to those that are newer, such as its id.
        log_factor: by which the logarithm of its depth is corrected.

    """

    map_camera: Array
    intrinsics: Array
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    time: int = 0
    log_factor: float = 0.0

    @cached_property
    def inverse_depth(self) -> NDArray[np.float32]:
        """One over the depth (h, w); 0 where unknown."""
        return np.where(self.depth > 0, 1 / np.where(self.depth > 0, self.depth, np.float32(1)), np.float32(0))

    def corrected(self, log_factor: float) -> DepthView:
        """Return this view with another factor, sharing its inverse depth."""
        other = replace(self, log_factor=log_factor)
        other.__dict__["inverse_depth"] = self.inverse_depth
        return other


@dataclass(frozen=True, eq=False)
class FusedDepth:
    """Depth of a keyframe that agrees with its neighbors'.

    Attributes:
        depth: float32 (h, w), map units; 0 where unknown or contradicted.
        confidence: float32 (h, w), in [0, 1]: a quarter of the sum of its rank, 0.5 for each neighbor that agrees, and
            -1 for each that sees through it. So with `map.min_confidence` 0.25, two that agree are enough for any
            depth, one for a depth with a rank of 0.5 or more, and twice as many have to agree as see through it. Where
            no neighbor has depth to compare with, as if two agreed, but no more than the rank. Less by 0.75 where depth
            may be smeared between two surfaces.

    """

    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Comparison:
    """The depth of a keyframe's m known pixels against that of a neighbor, each float32 (m,).

    Attributes:
        ratio: logarithms of the ratios of the depths, without the factors of both keyframes. Infinite where the
            neighbor has no depth: as where something is in front, it says nothing there.
        confidence: the neighbor's.
        tolerance: difference up to which the depths agree.

    """

    ratio: NDArray[np.float32]
    confidence: NDArray[np.float32]
    tolerance: NDArray[np.float32]


class _Support:
    """When the m points of a keyframe were seen: first, last, and by how many others."""

    def __init__(self, count: int, time: int, agreeing: Sequence[tuple[int, NDArray[np.bool_]]]) -> None:
        """Take the time of each neighbor and which points (m,) it has, too."""
        self.first, self.last = np.full(count, time, np.int32), np.full(count, time, np.int32)
        self._others = np.zeros(count, np.int8)
        by_time = sorted(agreeing, key=lambda one: one[0])
        for other, points in by_time:
            self._others += points
            if other > time:
                np.copyto(self.last, other, where=points)  # the newest comes last
        for other, points in reversed(by_time):
            if other < time:
                np.copyto(self.first, other, where=points)  # the oldest comes last

    def came_after(self, time: int) -> NDArray[np.bool_]:
        """Return which points came after `time`: what was seen through before is contradicted, unless two saw it."""
        return (self.first > time) & (self._others >= _CAME)


def log_ratios(view: DepthView, neighbors: Sequence[DepthView]) -> list[float | None]:
    """Return the median logarithms of the ratios of the depth of `view` to that of neighbors, by a sample of pixels.

    They are without the factors of both keyframes, and None where too few pixels are in common.
    """
    pixels, homogeneous = _known(view, _SAMPLE)
    depth, confidence = view.depth.ravel()[pixels], view.confidence.ravel()[pixels]
    return [_bias(*_ratios(view, other, homogeneous, depth)[1:], confidence) for other in neighbors]


def fuse(view: DepthView, neighbors: Sequence[DepthView]) -> FusedDepth:
    """Return the depth of `view` that agrees with that of its neighbors."""
    (pixels, homogeneous), log_factor = _known(view), view.log_factor
    depth, own = view.depth.ravel()[pixels], view.confidence.ravel()[pixels]
    found = [_compare(view, other, homogeneous, depth, own) for other in neighbors]
    ratios = [one.ratio + np.float32(log_factor - other.log_factor)
              for one, other in zip(found, neighbors, strict=True)]
    agreements: list[tuple[int, NDArray[np.bool_]]] = []
    score, looked = np.zeros(len(depth), np.float32), np.zeros(len(depth), np.bool_)
    total = np.maximum(own, _LEAST_WEIGHT) ** 2
    shift = np.zeros(len(depth), np.float32)
    for one, ratio, other in zip(found, ratios, neighbors, strict=True):
        looked |= np.isfinite(ratio)
        agree = np.abs(ratio) < one.tolerance
        score += _SUPPORT * agree
        agreements.append((other.time, agree))
        weight = np.maximum(one.confidence, _LEAST_WEIGHT) ** 2 * agree
        shift += weight * np.where(agree, ratio, np.float32(0))
        total += weight
    seen = _Support(len(depth), view.time, agreements)
    for one, ratio, other in zip(found, ratios, neighbors, strict=True):
        through = ratio < -_SEEN_THROUGH * one.tolerance
        score -= _THROUGH * (through & ~seen.came_after(other.time))
    fused = np.zeros(view.depth.shape, np.float32)
    fused.ravel()[pixels] = depth * np.exp(np.float32(log_factor) - shift / total)
    score -= _SMEARED * smeared(fused, view.intrinsics).ravel()[pixels]
    alone = np.minimum(own, (own + 2 * _SUPPORT) / _FULL_SCORE)
    known = np.where(looked, np.clip((own + score) / _FULL_SCORE, 0, 1), alone)
    known[_is_gone(found, ratios, neighbors, seen.last, view.time)] = 0
    confidence = np.zeros(view.depth.shape, np.float32)
    confidence.ravel()[pixels] = known
    fused[confidence == 0] = 0
    return FusedDepth(fused, confidence)


def _is_gone(found: Sequence[_Comparison], ratios: Sequence[NDArray[np.float32]], neighbors: Sequence[DepthView],
             last_seen: NDArray[np.int32], time: int) -> NDArray[np.bool_]:
    """Return which points (m,) were seen clearly through by keyframes that are newer than the last that saw them."""
    count = np.zeros(len(last_seen), np.int8)
    for one, ratio, other in zip(found, ratios, neighbors, strict=True):
        if other.time > time:
            through = ratio < -np.maximum(np.float32(_CLEARLY_THROUGH), 2 * one.tolerance)
            count += through & (other.time > last_seen)
    return count >= _GONE


def _known(view: DepthView, step: int = 1) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return every `step`-th pixel (m,) of known depth, as an index, and in homogeneous coordinates (3, m)."""
    pixels = np.flatnonzero(view.depth > 0)[::step]
    rows, columns = np.divmod(pixels, view.depth.shape[1])
    return pixels, np.stack([columns, rows, np.ones_like(rows)]).astype(np.float32)


def _compare(view: DepthView, other: DepthView, homogeneous: NDArray[np.float32], depth: NDArray[np.float32],
             confidence: NDArray[np.float32]) -> _Comparison:
    """Compare the depth (m,) of pixels, 3 x m as homogeneous coordinates, with that of another keyframe."""
    z, ratio, weight = _ratios(view, other, homogeneous, depth)
    sample = slice(None, None, _SAMPLE)
    bias = _bias(ratio[sample], weight[sample], confidence[sample])
    if bias is None:
        return _Comparison(ratio, weight, np.full(len(ratio), _UNKNOWN_TOLERANCE, np.float32))
    return _Comparison(ratio, weight, _tolerance(z, ratio - np.float32(bias)))


def _ratios(view: DepthView, other: DepthView, homogeneous: NDArray[np.float32],
            depth: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return the depth (m,) of points in another keyframe, and its ratio and confidence as in `_Comparison`."""
    other_view = inverse(other.map_camera) @ view.map_camera
    turn = (other.intrinsics @ other_view[:3, :3] @ np.linalg.inv(view.intrinsics)).astype(np.float32)
    position = turn @ homogeneous
    position *= depth
    position += (other.intrinsics @ other_view[:3, 3]).astype(np.float32)[:, None]
    x, y, z = position
    height, width = other.depth.shape
    np.maximum(z, np.float32(1e-6), out=z)
    x /= z
    y /= z
    inside = (z > 1e-5) & (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    there, place = _interpolated(other.inverse_depth, np.clip(x, 0, width - 1, out=x), np.clip(y, 0, height - 1, out=y))
    there *= z
    there[~inside | (there <= 0)] = np.inf
    return z, np.log(there), other.confidence.take(place)


def _bias(ratio: NDArray[np.float32], weight: NDArray[np.float32], confidence: NDArray[np.float32]) -> float | None:
    """Return the median of ratios (m,), every `_SAMPLE`-th, where both keyframes are confident; None if too few are."""
    trusted = ratio[(np.abs(ratio) < _MAX_RATIO) & (np.minimum(weight, confidence) > 0.3)]
    return None if len(trusted) * _SAMPLE < _MIN_COMMON else median(trusted)


def _interpolated(inverse_depth: NDArray[np.float32], x: NDArray[np.float32],
                  y: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return inverse depth (m,) at positions x, y (m,) in a map (h, w), and the index of the nearest pixel.

    It is interpolated, which is exact on a plane, but not across edges and unknown depth: there it is that of the
    nearest pixel.
    """
    place = np.rint(y).astype(np.int32) * inverse_depth.shape[1] + np.rint(x).astype(np.int32)
    nearest = inverse_depth.take(place)
    if not len(x):
        return nearest, place
    rows = -(-len(x) // _COLUMNS)  # OpenCV allows 32767 rows at most
    at_x, at_y = (np.resize(values, (rows, _COLUMNS)) for values in (x, y))
    between = cv2.remap(inverse_depth, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    between = np.asarray(between, np.float32).ravel()[:len(x)]
    np.copyto(nearest, between, where=np.abs(between - nearest) < _EDGE * nearest)
    return nearest, place


def _tolerance(depth: NDArray[np.float32], difference: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return up to which difference depths (m,) agree: by their noise, as a linear function of the depth.

    Of stereo, the relative noise grows with the depth; of a network, less so.
    """
    sample = slice(None, None, 2 * _SAMPLE)
    sampled, noise = depth[sample], np.abs(difference[sample])
    sampled, noise = sampled[noise < _MAX_RATIO], noise[noise < _MAX_RATIO]
    if len(sampled) < _BINS:
        return np.full(len(depth), _UNKNOWN_TOLERANCE, np.float32)
    parts = np.array_split(np.argsort(sampled), _BINS)
    sigma = [1.48 * median(noise[part]) for part in parts]
    middle = np.array([median_of_sorted(sampled[part]) for part in parts])
    apart = middle - middle.mean()
    slope = max(0.0, float(apart @ sigma) / float(apart @ apart + (1e-3 * middle.mean()) ** 2))
    tolerance = _TOLERANCE_SIGMAS * (np.float32(slope) * depth + np.float32(np.mean(sigma) - slope * middle.mean()))
    return np.asarray(np.clip(tolerance, _MIN_TOLERANCE, _MAX_TOLERANCE), np.float32)
