"""Image store: compressed images of keyframes with their features, for the verification of loops."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.appearance import Features
from vggt_ros.windows.keyframe import Keyframe

_QUALITY = 90
"""Quality of the JPEG images; at 640x480 they take 60 to 100 kB."""


@dataclass(frozen=True, eq=False)
class _StoredKeyframe:
    """A keyframe with its image as JPEG instead of pixels."""

    keyframe: Keyframe
    jpeg: NDArray[np.uint8]
    features: Features


class KeyframeImages:
    """Stores keyframes with compressed images."""

    def __init__(self) -> None:
        """Begin empty."""
        self._stored: dict[int, _StoredKeyframe] = {}

    def __contains__(self, keyframe: int) -> bool:
        """Return True if a keyframe's image is stored."""
        return keyframe in self._stored

    def add(self, keyframe: Keyframe, features: Features) -> None:
        """Store a keyframe with its image, compressed, and its features."""
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(keyframe.image, cv2.COLOR_RGB2BGR),
                            [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
        without_image = replace(keyframe, image=np.zeros((0, 0, 3), np.uint8))
        self._stored[keyframe.id] = _StoredKeyframe(without_image, np.asarray(jpeg, np.uint8), features)

    def features(self, keyframe: int) -> Features:
        """Return the features of a stored keyframe."""
        return self._stored[keyframe].features

    def keyframe(self, keyframe: int) -> Keyframe:
        """Return a stored keyframe with its image."""
        stored = self._stored[keyframe]
        image = cv2.cvtColor(cv2.imdecode(stored.jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return replace(stored.keyframe, image=np.asarray(image, np.uint8))

    def remove(self, keyframe: int) -> None:
        """Remove a keyframe; harmless if it is not stored."""
        self._stored.pop(keyframe, None)
