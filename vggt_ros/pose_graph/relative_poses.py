"""A window as what it says of the steps from each of its keyframes to the next.

Keyframes are the nodes of the graph, each in the units of the window that placed it. Two windows that have the same
step are two measurements of it, and a correction that is spread over steps bends windows inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vggt_ros.geometry.poses import Array, Sim3, inverse, orthonormalize
from vggt_ros.geometry.sim3 import exp, log, to_matrix, to_sim3, transported
from vggt_ros.geometry.sim3 import inverse as inverses
from vggt_ros.windows.alignment import Alignment, View

_ROTATION, _TRANSLATION, _SCALE = 0.0022, 0.0045, 0.0045
"""How much a window is taken to be off from one keyframe to the next (radians, fraction of the depth, logarithm): what
adds up along the chain, and what loops tell the pose graph better."""


@dataclass(frozen=True, eq=False)
class RelativePose:
    """Where a keyframe lies in the frame of another one, each in units of its own.

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
    """Where the newer keyframe lies in the frame of the older; `covariance` (7, 7) as in `Alignment`.

    `relative_poses` are those of the joint reconstruction between keyframes of the map, on either side; `images` is how
    many images of the newer place say so independently.
    """

    first_second: Sim3
    covariance: Array
    relative_poses: tuple[RelativePose, ...] = ()
    images: int = 1


def relative_poses(window: Mapping[int, View], known: Mapping[int, View] | None = None,
          alignment: Alignment | None = None) -> Iterator[RelativePose]:
    """Yield the steps of a window, so that the map has the first keyframe of each when its turn comes.

    Args:
        window: keyframe id to what the window says of it, in the order of its way.
        known: what the map knows of some of them; without, the window's first keyframe is all that the map has.
        alignment: where the window lies in the frame of `known`.

    """
    known, keyframes = known or {}, list(window)
    placed = [row for row, keyframe in enumerate(keyframes) if keyframe in known] or [0]
    # Units of each keyframe's own in one of the window.
    units = {k: alignment.reference_window.scale / known[k].scale if alignment and k in known else 1.0 for k in window}
    depth = float(np.median([view.keyframe.median_depth for view in window.values()]))
    ways = list(pairwise(keyframes))
    backwards = [(second, first) for first, second in ways[:placed[0]][::-1]]
    for first, second in [*ways[placed[0]:], *backwards]:
        if second in known and first not in known:
            continue  # the map has both ends already, by other ways
        sigmas = np.array([_ROTATION] * 3 + [_TRANSLATION * depth * units[second]] * 3 + [_SCALE])
        covariance = np.diag(sigmas**2)
        if alignment and first in known and second not in known:
            covariance += transported(alignment.covariance[None], inverse(window[second].camera)[None])[0]
        relation = _relation(window, first, second, units)
        if alignment and first in known and second not in known:
            # Errors of poses that add up speak for the step, independent ones for the mean over the overlap.
            there = alignment.reference_window @ Sim3.from_pose(window[second].camera)
            aligned = to_matrix(Sim3.from_pose(known[first].camera, known[first].scale).inverse() @ there)[None]
            relation = to_sim3(aligned @ exp(log(inverses(aligned) @ to_matrix(relation)[None]) / 2))[0]
        yield RelativePose(first, second, relation, covariance, first in known and second in known)


def loop_relative_pose(
    window: Mapping[int, View], pair: tuple[int, int], sides: Sequence[tuple[Mapping[int, View], Alignment]]
) -> tuple[Sim3, Array]:
    """Return how the keyframes of a pair lie to each other by a window that has both, and the covariance (7, 7).

    Each side is what the map knows around a keyframe of the pair, in its frame and units, and where the window lies
    there. The covariance is of the perturbation on the right.
    """
    units = {k: alignment.reference_window.scale / known[k].scale
             for k, (known, alignment) in zip(pair, sides, strict=True)}
    (_, first), (_, second) = sides
    there = to_matrix(second.reference_window)[None]
    return (_relation(window, *pair, units), transported((first.covariance + second.covariance)[None], there)[0])


def _relation(window: Mapping[int, View], first: int, second: int, units: Mapping[int, float]) -> Sim3:
    move = inverse(window[first].camera) @ window[second].camera
    return Sim3(units[first] / units[second], orthonormalize(move[:3, :3]), units[first] * move[:3, 3])
