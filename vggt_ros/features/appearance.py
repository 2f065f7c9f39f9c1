"""Local features of an image (SIFT) and its place descriptor (VLAD), which is compared with those of all keyframes.

SIFT (Lowe, IJCV 2004) as RootSIFT (Arandjelovic and Zisserman, CVPR 2012), reduced to 32 principal components, and
aggregated over 64 visual words into a VLAD vector (Jegou et al., CVPR 2010) with intra-normalization per word
(Arandjelovic and Zisserman, CVPR 2013). The components and words are trained on rendered rooms (`dev/vocabulary.py`)
and never change, so that maps of different days can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import reduced_size
from vggt_ros.images.mask import free_pixels

Float = NDArray[np.float32]

IMAGE_WIDTH = 320
"""Width to which images are reduced, pixels, see `reduced_size`: places are recognized by structures larger than a few
pixels."""
MAX_FEATURES = 300
"""Most SIFT features of an image."""
COMPONENTS, WORDS = 32, 64
VLAD_SIZE = COMPONENTS * WORDS
"""Length of a place descriptor."""
_QUANTIZATION_STEP = np.float32(0.5 / 127)
"""Quantization step of the stored components; they lie within +-0.5, since RootSIFT has unit length."""
_MAX_RATIO = 0.85
"""Largest ratio of the distance to the best match to that of the second best (Lowe's ratio test)."""


@dataclass(frozen=True, eq=False)
class Features:
    """SIFT features of an image.

    Attributes:
        positions: float32 (n, 2), x and y as fractions of width and height, 0 and 1 at the outer edges.
        components: int8 (n, 32), descriptors: principal components of RootSIFT, quantized.

    """

    positions: Float
    components: NDArray[np.int8]

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.positions)

    def pixels(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return pixel coordinates (n, 2) in an image of `size` (width, height); integers are pixel centers."""
        return self.positions.astype(np.float64) * size - 0.5


@cache
def vocabulary() -> tuple[Float, Float, Float]:
    """Return mean (128,) and principal components (32, 128) of RootSIFT, and visual words (64, 32)."""
    with files("vggt_ros.features").joinpath("vocabulary.npz").open("rb") as stream:
        arrays = np.load(stream, allow_pickle=False)
        return tuple(arrays[name].astype(np.float32) for name in ("mean", "components", "words"))


def root_sift(image: NDArray[np.uint8], excluded: NDArray[np.bool_] | None = None) -> tuple[Float, Float]:
    """Return positions (n, 2) of SIFT features, as fractions of the size, and RootSIFT (n, 128); RGB or gray image.

    There are none in what the mask `excluded` leaves out.
    """
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = reduced_size(gray.shape[1], gray.shape[0], IMAGE_WIDTH)
    small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    points, descriptors = cv2.SIFT_create(MAX_FEATURES, contrastThreshold=0.02).detectAndCompute(
        small, free_pixels(excluded, small.shape))
    if descriptors is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    positions = (np.array([point.pt for point in points], np.float32) + np.float32(0.5)) / np.array(size, np.float32)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-9))
    return np.asarray(positions, np.float32), np.asarray(root, np.float32)


def describe(image: NDArray[np.uint8], excluded: NDArray[np.bool_] | None = None) -> tuple[Features, Float]:
    """Return the features of an image, RGB or gray, and its place descriptor (2048,), of unit length or zero.

    What the mask `excluded` leaves out has no features.
    """
    mean, axes, _ = vocabulary()
    positions, descriptors = root_sift(image, excluded)
    components = np.asarray((descriptors - mean) @ axes.T, np.float32)
    features = Features(positions, np.clip(np.rint(components / _QUANTIZATION_STEP), -127, 127).astype(np.int8))
    return features, vlad(components)


def vlad(components: Float) -> Float:
    """Return the VLAD vector (2048,) of features with these components (n, 32), of unit length; zero without any."""
    words = vocabulary()[2]
    nearest = np.argmin((words**2).sum(1) - 2 * components @ words.T, axis=1)
    sums = np.zeros_like(words)
    np.add.at(sums, nearest, components - words[nearest])
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    return np.asarray(sums.ravel() / max(float(np.linalg.norm(sums)), 1e-9), np.float32)


def match(first: Features, second: Features) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of the features that match: mutual nearest neighbors that pass the ratio test."""
    if min(len(first), len(second)) < 2:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    a, b = first.components.astype(np.float32), second.components.astype(np.float32)
    squared_distances = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    rows, best, best_backward = np.arange(len(a)), squared_distances.argmin(1), squared_distances.argmin(0)
    nearest = squared_distances[rows, best].copy()
    squared_distances[rows, best] = np.inf
    good = (nearest < _MAX_RATIO**2 * squared_distances.min(1)) & (best_backward[best] == rows)
    return rows[good], best[good]
