"""Images of keyframes, compressed, with their features: what is needed to look at a place once more."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.appearance import Features
from vggt_ros.windows.keyframe import Keyframe

_QUALITY = 90
"""Of the JPEG images; at 640x480 they take 60 to 100 kB."""


@dataclass(frozen=True, eq=False)
class _Photo:
    """A keyframe with its image as JPEG in place of the pixels."""

    keyframe: Keyframe
    jpeg: NDArray[np.uint8]
    features: Features


class KeyframeImages:
    """Keyframes of which the image is at hand."""

    def __init__(self) -> None:
        """Begin empty."""
        self._photos: dict[int, _Photo] = {}

    def __contains__(self, keyframe: int) -> bool:
        """Return True if a keyframe's image is at hand."""
        return keyframe in self._photos

    def add(self, keyframe: Keyframe, features: Features) -> None:
        """Keep a keyframe's image, compressed, and its features."""
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(keyframe.image, cv2.COLOR_RGB2BGR),
                            [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
        bare = replace(keyframe, image=np.zeros((0, 0, 3), np.uint8))
        self._photos[keyframe.id] = _Photo(bare, np.asarray(jpeg, np.uint8), features)

    def features(self, keyframe: int) -> Features:
        """Return the features of a keyframe that is at hand."""
        return self._photos[keyframe].features

    def keyframe(self, keyframe: int) -> Keyframe:
        """Return a keyframe that is at hand, with its image."""
        photo = self._photos[keyframe]
        image = cv2.cvtColor(cv2.imdecode(photo.jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return replace(photo.keyframe, image=np.asarray(image, np.uint8))

    def remove(self, keyframe: int) -> None:
        """Let go of a keyframe; harmless if it is not at hand."""
        self._photos.pop(keyframe, None)
