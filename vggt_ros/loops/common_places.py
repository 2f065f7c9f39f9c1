"""Places that two parts of a map have in common: keyframes of the one are found in the other, and measured in groups.

The map keeps no full images. Its keyframes are searched for as they are stored: by their place descriptors, the ORB
features of their full images, and their small images. A search is verified as that of a lost camera (`places`), and a
group of neighboring keyframes must align with the depth of the other part as a window must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config
from vggt_ros.features.tracks import ImageFeatures
from vggt_ros.images.exposure import gray_image
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.places.relocalization import MIN_SPREAD_SUPPORTED, Relocalization, Relocalizer
from vggt_ros.pose_graph.relative_poses import LoopMeasurement
from vggt_ros.windows.alignment import AlignmentRefused
from vggt_ros.windows.keyframe import BinaryFeatures
from vggt_ros.windows.solution import MapKeyframe, Solution

MIN_IMAGES = 2
"""Fewest images of a group: a single one agrees with itself."""


@dataclass(frozen=True, eq=False)
class CommonPlace:
    """A measurement of the relative pose of two parts: `first` and `second` are keyframes of the two."""

    first: int
    second: int
    measurement: LoopMeasurement


def stored_image(keyframe: MapKeyframe) -> ImageFeatures:
    """Return the image of a keyframe as the map has it, with the features of its full image."""
    image = ImageFeatures(gray_image(np.asarray(keyframe.color)))
    image.binary = BinaryFeatures(keyframe.pixels, keyframe.features)
    if keyframe.appearance is not None:
        image.appearance = keyframe.appearance
    return image


def find_keyframes(keyframes: Iterable[int], part: Solution, config: Config,
                   progress: Callable[[], object] = lambda: None) -> dict[int, Relocalization]:
    """Return the keyframes that were found in another part of the map, whose `part` of the solution is given."""
    # What one image leaves open, the others of its group decide: their poses and depth have to agree.
    search, found = Relocalizer(config.tracking, MIN_SPREAD_SUPPORTED), {}
    for keyframe in keyframes:
        stored = part.keyframes[keyframe]
        if (one := search.search(stored_image(stored), stored.intrinsics, part)) is not None:
            found[keyframe] = one
        progress()
    return found


def measure(keyframes: NDArray[np.int64], found: Mapping[int, Relocalization], atlas: Atlas, part: Solution,
            size: int) -> tuple[list[CommonPlace], list[str]]:
    """Return measurements by groups of neighboring keyframes, those of most images first, and why others have none.

    Args:
        keyframes: ids (n,) of all keyframes of the part whose keyframes were searched for.
        found: those that were found.
        atlas: the map.
        part: the solution of the other part.
        size: keyframes of a group.

    """
    places, refusals = [], []
    for begin in range(0, len(keyframes), size):
        group = {k: found[k] for k in keyframes[begin:begin + size].tolist() if k in found}
        reason = ""
        while len(group) >= MIN_IMAGES:
            try:
                first, second, measurement = atlas.measure_relocalized(group, part)
            except AlignmentRefused as refusal:
                reason = reason or f"keyframes {min(group)} to {max(group)}: {refusal}"
                del group[min(group, key=lambda k: group[k].correlation)]
                continue
            places.append(CommonPlace(first, second, measurement))
            break
        else:
            refusals += [reason] if reason else []
    return sorted(places, key=lambda place: -place.measurement.images), refusals
