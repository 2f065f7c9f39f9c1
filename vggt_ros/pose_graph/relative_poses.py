"""The relative poses that a window measures, from each of its keyframes to the next.

Keyframes are the nodes of the graph, each in the units of the window that placed it. Two windows that have the same two
consecutive keyframes are two measurements of the relative pose between them. A correction that is spread over relative
poses deforms windows non-rigidly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vggt_ros.geometry.poses import Array, Sim3, adjoint, inverse, orthonormalize
from vggt_ros.geometry.sim3 import exp, log, to_matrix, to_sim3, transported
from vggt_ros.geometry.sim3 import inverse as inverses
from vggt_ros.windows.alignment import Alignment, View, known_depth
from vggt_ros.windows.tracks import Tracks

_SIGMA_ROTATION, _SIGMA_TRANSLATION, _SIGMA_LOG_SCALE = 0.0022, 0.0045, 0.0045
"""Assumed errors of a window from one keyframe to the next (radians, fraction of the depth, log scale). They accumulate
along the chain; the pose graph corrects their size by the loops (`SpanningTree.inflation`)."""


@dataclass(frozen=True, eq=False)
class RelativePose:
    """The pose of a keyframe in the frame of another one, each in its own units.

    Attributes:
        first, second: ids of the keyframes.
        first_second: the similarity.
        covariance: (7, 7) of its perturbation on the right.
        known: whether the map has both already.

    """

    first: int
    second: int
    first_second: Sim3
    covariance: Array
    known: bool


@dataclass(frozen=True, eq=False)
class LoopMeasurement:
    """The pose of the newer keyframe in the frame of the older; `covariance` (7, 7) as in `Alignment`.

    `relative_poses` are those of the joint reconstruction between keyframes of the map, on either side, and `tracks`
    what it observed; `images` is how many images of the newer place support the measurement independently.
    """

    first_second: Sim3
    covariance: Array
    relative_poses: tuple[RelativePose, ...] = ()
    images: int = 1
    tracks: Tracks | None = None


def relative_poses(window: Mapping[int, View], known: Mapping[int, View] | None = None,
                   alignment: Alignment | None = None) -> Iterator[RelativePose]:
    """Yield the relative poses of a window, in an order in which the first keyframe of each is in the map already.

    Args:
        window: keyframe id to its view in the window, in the order of the trajectory.
        known: keyframe id to its view in the map, for those in the map; without, the map has only the window's first.
        alignment: of the window to `known`.

    """
    known, keyframes = known or {}, list(window)
    known_rows = [row for row, keyframe in enumerate(keyframes) if keyframe in known] or [0]
    # Units of each keyframe in one unit of the window.
    units = {k: alignment.reference_window.scale / known[k].scale if alignment and k in known else 1.0 for k in window}
    depth = known_depth(window)
    pairs = list(pairwise(keyframes))
    backwards = [(second, first) for first, second in pairs[:known_rows[0]][::-1]]
    for first, second in [*pairs[known_rows[0]:], *backwards]:
        if second in known and first not in known:
            continue  # both are attached already, through other keyframes
        covariance = _covariance(window, first, second, depth, units[second])
        if alignment and first in known and second not in known:
            covariance += transported(alignment.covariance[None], inverse(window[second].camera)[None])[0]
        relative = _relative_pose(window, first, second, units)
        if alignment and first in known and second not in known:
            # Half by the window alone, which is best if errors of its poses accumulate, and half by the alignment over
            # the whole overlap, which is best if they are independent.
            reference_second = alignment.reference_window @ Sim3.from_pose(window[second].camera)
            aligned = to_matrix(
                Sim3.from_pose(known[first].camera, known[first].scale).inverse() @ reference_second)[None]
            relative = to_sim3(aligned @ exp(log(inverses(aligned) @ to_matrix(relative)[None]) / 2))[0]
        yield RelativePose(first, second, relative, covariance, first in known and second in known)


def _covariance(window: Mapping[int, View], first: int, second: int, depth: float, unit: float) -> Array:
    """Return the covariance (7, 7) of a relative pose by the window alone.

    The assumed errors are replaced by the window's own covariances where it has any, down to a tenth of them.
    """
    assumed = np.array([_SIGMA_ROTATION] * 3 + [_SIGMA_TRANSLATION * depth * unit] * 3 + [_SIGMA_LOG_SCALE])
    order = list(window)
    backwards = order.index(first) > order.index(second)
    own = window[first if backwards else second].step_covariance
    if own is None:
        assumed[:6] *= max(window[first].uncertainty, window[second].uncertainty)
        return np.diag(assumed**2)
    if backwards:  # a perturbation of the newer camera becomes one of the older
        older_newer = inverse(window[second].camera) @ window[first].camera
        carry = adjoint(older_newer)
        own = carry @ own @ carry.T
    units = np.array([1.0] * 3 + [unit] * 3)
    covariance = np.diag((np.array([0.1] * 6 + [1.0]) * assumed) ** 2)
    covariance[:6, :6] += units[:, None] * own * units
    return covariance


def loop_relative_pose(
    window: Mapping[int, View], pair: tuple[int, int], sides: Sequence[tuple[Mapping[int, View], Alignment]]
) -> tuple[Sim3, Array]:
    """Return the relative pose of the keyframes of a pair by a window that has both, and the covariance (7, 7).

    Each side has the views in the map around one keyframe of the pair, in its frame and units, and the alignment of the
    window to them. The covariance is of the perturbation on the right.
    """
    units = {k: alignment.reference_window.scale / known[k].scale
             for k, (known, alignment) in zip(pair, sides, strict=True)}
    (_, first), (_, second) = sides
    second_window = to_matrix(second.reference_window)[None]
    return (_relative_pose(window, *pair, units),
            transported((first.covariance + second.covariance)[None], second_window)[0])


def _relative_pose(window: Mapping[int, View], first: int, second: int, units: Mapping[int, float]) -> Sim3:
    first_second = inverse(window[first].camera) @ window[second].camera
    return Sim3(units[first] / units[second], orthonormalize(first_second[:3, :3]), units[first] * first_second[:3, 3])
