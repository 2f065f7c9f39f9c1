"""What the map keeps of a keyframe's image to find it again: binary features, and its place with local features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.appearance import Features, describe
from vggt_ros.features.tracks import ImageFeatures
from vggt_ros.windows.keyframe import BinaryFeatures, Keyframe


@dataclass(frozen=True, eq=False)
class Description:
    """The features of a keyframe.

    Attributes:
        binary: ORB features, for relocalization.
        local: SIFT features, for loops.
        appearance: float32 (2048,), the place descriptor.

    """

    binary: BinaryFeatures
    local: Features
    appearance: NDArray[np.float32]


def describe_keyframe(keyframe: Keyframe) -> Description:
    """Return the features of a keyframe; 15 ms of a core."""
    return Description(ImageFeatures.from_keyframe(keyframe).binary, *describe(keyframe.image, keyframe.excluded))


def describer(reconstructor: Any) -> Callable[[Keyframe], Description]:
    """Return a function as `describe_keyframe`; a reconstructor in a process of its own may have done its work."""
    take = getattr(reconstructor, "take_description", lambda keyframe: None)

    def describe(keyframe: Keyframe) -> Description:
        found: Description | None = take(keyframe.id)
        return describe_keyframe(keyframe) if found is None else found

    return describe
