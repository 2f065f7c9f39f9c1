"""Whether two parts of a map show the same place, or two that look alike: what else both should show is looked for.

Where two maps are joined, the keyframes around the place should show what the other map has of it, too. Floors that are
built alike agree at a corner and differ in the next corridor: keyframes that should see what the other map has are not
found there. A measurement alone cannot tell that, since nothing else constrains the relative pose of two maps.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, pose
from vggt_ros.loops.common_places import CommonPlace
from vggt_ros.loops.verification import depth_agreement
from vggt_ros.places.relocalization import neighbors
from vggt_ros.windows.solution import Solution

_WELL_SEEN = 0.8
"""Fraction of a keyframe's depth that another one sees, from which the other one should be found by it."""
_MIN_FOUND = 0.6
"""Least fraction of the keyframes that should be found which are found, where the place is the same."""
_MIN_EXPECTED = 4
"""Fewest keyframes that should be found, besides those of the measurements, for a judgment."""
_COMPARED = 4
"""Keyframes of the other part that are compared with one, the most covisible ones."""


@dataclass(frozen=True)
class Evidence:
    """How many keyframes should be found in the other part, by the measurements, and how many of these are."""

    expected: int
    found: int

    @property
    def contradiction(self) -> str:
        """Why the parts are not taken to show the same place; empty if nothing contradicts."""
        missing = self.expected - self.found
        if missing < _MIN_EXPECTED or self.found >= _MIN_FOUND * self.expected:
            return ""
        return (f"{missing} of {self.expected} keyframes around the place should be found there, too, and are not: it "
                "may be another place that looks alike")


def evidence(keyframes: NDArray[np.int64], found: Container[int], places: Sequence[CommonPlace], solution: Solution,
             part: Solution, reach: int) -> Evidence:
    """Return how many keyframes around common places should be found in another part, and are.

    Args:
        keyframes: ids (n,) of the part whose keyframes were searched for.
        found: those that were found.
        places: what was measured.
        solution: of the whole map, before the parts are joined.
        part: of the other part.
        reach: keyframes to either side of a place that are looked at; farther away, drift of the maps counts.

    """
    expected = seen = 0
    for keyframe in keyframes.tolist() if places else ():
        place = min(places, key=lambda one: abs(one.second - keyframe))
        if abs(place.second - keyframe) > reach:
            continue
        if _overlap(keyframe, place, solution, part) >= _WELL_SEEN:
            expected, seen = expected + 1, seen + (keyframe in found)
    return Evidence(expected, seen)


def _overlap(keyframe: int, place: CommonPlace, solution: Solution, part: Solution) -> float:
    """Return which fraction of the depth of a keyframe of the other part a keyframe sees by a measurement, at most."""
    map_first, map_second, map_before = (solution.similarity(int(row)) for row in np.searchsorted(
        solution.ids, (place.first, place.second, keyframe)))
    map_keyframe = map_first @ place.measurement.first_second @ map_second.inverse() @ map_before
    camera = pose(map_keyframe.rotation, map_keyframe.translation)
    overlaps = [0.0]
    for row in neighbors(part, camera, int(part.submaps[0]), _COMPARED):
        other = int(part.ids[row])
        relative = part.similarity(int(row)).inverse() @ map_keyframe
        overlaps.append(_seen(solution, other, keyframe, pose(relative.rotation, relative.translation), relative.scale))
    return max(overlaps)


def _seen(solution: Solution, older: int, newer: int, older_newer: Array, scale: float) -> float:
    return depth_agreement(solution.keyframes[older], solution.keyframes[newer], older_newer, scale)[1]
