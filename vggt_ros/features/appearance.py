"""How a place looks: local features of an image, and one vector for all of them that is compared with thousands.

SIFT (Lowe, IJCV 2004) as RootSIFT (Arandjelovic and Zisserman, CVPR 2012), reduced to 32 numbers by principal
components, summed over 64 words into a VLAD (Jegou et al., CVPR 2010) whose words are normalized each (Arandjelovic and
Zisserman, CVPR 2013). Components and words are learned from rendered rooms (`dev/vocabulary.py`) and the same
everywhere, so that maps of different days can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

WIDTH = 320
"""Width at which an image is described, pixels: places are recognized by what is larger than a few pixels."""
COUNT = 300
"""Most features of an image."""
COMPONENTS, WORDS = 32, 64
SIZE = COMPONENTS * WORDS
"""Numbers of a place's descriptor."""
_STEP = np.float32(0.5 / 127)
"""A step of the stored components; they lie within 0.5, RootSIFT having unit length."""
_RATIO = 0.85
"""Largest ratio of a match's distance to that of the second best."""


@dataclass(frozen=True, eq=False)
class Features:
    """Local features of an image.

    Attributes:
        at: float32 (n, 2), x and y as fractions of width and height, 0 and 1 at the outer edges.
        components: int8 (n, 32), what they look like.

    """

    at: Float
    components: NDArray[np.int8]

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.at)

    def pixels(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return pixel coordinates (n, 2) in an image of `size` (width, height); integers are pixel centers."""
        return self.at.astype(np.float64) * size - 0.5


@cache
def vocabulary() -> tuple[Float, Float, Float]:
    """Return mean (128,) and components (32, 128) of RootSIFT, and words (64, 32)."""
    with files("vggt_ros.features").joinpath("vocabulary.npz").open("rb") as stream:
        arrays = np.load(stream, allow_pickle=False)
        return tuple(arrays[name].astype(np.float32) for name in ("mean", "components", "words"))


def root_sift(image: NDArray[np.uint8]) -> tuple[Float, Float]:
    """Return where features are (n, 2), as fractions of the size, and their RootSIFT (n, 128); RGB or gray image."""
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = gray.shape
    size = (min(WIDTH, width), max(1, round(height * min(WIDTH, width) / width)))
    small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    points, descriptors = cv2.SIFT_create(COUNT, contrastThreshold=0.02).detectAndCompute(small, None)
    if descriptors is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    at = (np.array([point.pt for point in points], np.float32) + np.float32(0.5)) / np.array(size, np.float32)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
    return np.asarray(at, np.float32), np.asarray(root, np.float32)


def describe(image: NDArray[np.uint8]) -> tuple[Features, Float]:
    """Return the features of an image, RGB or gray, and its descriptor (2048,), of unit length or zero."""
    mean, axes, _ = vocabulary()
    at, descriptors = root_sift(image)
    components = np.asarray((descriptors - mean) @ axes.T, np.float32)
    features = Features(at, np.clip(np.rint(components / _STEP), -127, 127).astype(np.int8))
    return features, vlad(components)


def vlad(components: Float) -> Float:
    """Return the vector (2048,) of features with these components (n, 32), of unit length, or zero without any."""
    words = vocabulary()[2]
    nearest = np.argmin((words**2).sum(1) - 2 * components @ words.T, axis=1)
    sums = np.zeros_like(words)
    np.add.at(sums, nearest, components - words[nearest])
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    return np.asarray(sums.ravel() / max(float(np.linalg.norm(sums)), 1e-9), np.float32)


def match(first: Features, second: Features) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of features that match, mutually the best and clearly better than the second best."""
    if min(len(first), len(second)) < 2:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    a, b = first.components.astype(np.float32), second.components.astype(np.float32)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    rows, best, back = np.arange(len(a)), squares.argmin(1), squares.argmin(0)
    nearest = squares[rows, best].copy()
    squares[rows, best] = np.inf
    good = (nearest < _RATIO**2 * squares.min(1)) & (back[best] == rows)
    return rows[good], best[good]
