"""Sequences made harder: the same images with other light, something in the way, wider steps, or no calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import Camera
from vggt_ros.sequences.sequence import Image, Sequence, SequenceError, Truth

Disturb = Callable[[Image, int], Image]


class Disturbed:
    """A sequence whose images are changed, every `step`-th of them; truth, depth and stamps stay."""

    def __init__(self, sequence: Sequence, disturb: Disturb = lambda image, index: image, step: int = 1,
                 camera: Camera | None = None) -> None:
        """Change images by `disturb(image, index)`; with another `camera`, the calibration is that."""
        self._sequence, self._disturb, self._step, self._camera = sequence, disturb, step, camera
        self.name, self.rectified, self.assumptions = sequence.name, sequence.rectified, sequence.assumptions
        self.camera, self.omitted = camera or sequence.camera, sequence.omitted

    @property
    def truth(self) -> Truth | None:
        """The true trajectory of the sequence."""
        return self._sequence.truth

    def __len__(self) -> int:
        """Return the number of images."""
        return -(-len(self._sequence) // self._step)

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield stamp and changed image."""
        for index, (stamp, image) in enumerate(self._sequence):
            self.camera, self.omitted = self._camera or self._sequence.camera, self._sequence.omitted
            if index % self._step == 0:
                yield stamp, self._disturb(image, index)

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the sensor depth of the sequence."""
        return self._sequence.depths()


def flicker(image: Image, index: int) -> Image:
    """Return every second image at 45 % of its brightness."""
    return (image * 0.45).astype(np.uint8) if index % 2 else image


def dark(image: Image, index: int) -> Image:
    """Return an image at 12 % of its brightness, with the noise of a camera at night."""
    noise = 1.5 * np.random.default_rng(index).standard_normal(image.shape)
    return np.clip(image * 0.12 + noise, 0, 255).astype(np.uint8)


def bands(image: Image, index: int) -> Image:
    """Return an image with the bands of a lamp that flickers, by a rolling shutter: elsewhere in each image."""
    rows = np.arange(len(image)) / len(image)
    gains = 0.8 + 0.28 * np.sin(5 * np.pi * rows + 1.7 * index)
    return np.clip(image * gains.reshape(-1, *[1] * (image.ndim - 1)), 0, 255).astype(np.uint8)


class Interlaced:
    """Images whose odd rows are those of the image before."""

    def __init__(self) -> None:
        """Begin without an image."""
        self._before: Image | None = None

    def __call__(self, image: Image, index: int) -> Image:
        """Return an image with odd rows of the one before; that of index 0 is the first one of a sequence."""
        combed = image.copy()
        if index and self._before is not None:
            combed[1::2] = self._before[1::2]
        self._before = image
        return combed


def own_body(image: Image, index: int) -> Image:
    """Return an image with a textured patch over a quarter of the view that never moves."""
    height, width = image.shape[:2]
    image = image.copy()
    image[height - height // 2:, :width // 2] = texture(height // 2, width // 2, seed=1)
    return image


def passer_by(image: Image, index: int) -> Image:
    """Return an image with a textured patch over a third of the view, which walks through in images 100 to 154."""
    height, width = image.shape[:2]
    side, progress = width // 3, (index - 99.5) / 55
    left = round(progress * (width + side)) - side
    begin, end = max(left, 0), min(left + side, width)
    if 0 < progress < 1 and end > begin:
        image = image.copy()
        image[:, begin:end] = texture(height, side, seed=2)[:, begin - left:end - left]
    return image


def texture(height: int, width: int, seed: int) -> Image:
    """Return a colored texture with structures of several sizes, RGB (height, width, 3)."""
    rng, total = np.random.default_rng(seed), np.zeros((height, width), np.float32)
    for sigma in (1.5, 4.0, 12.0):
        layer = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), sigma)
        total += layer / layer.std()
    gray = np.clip(128 + 50 * total / total.std(), 0, 255)
    return np.stack([gray, 0.8 * np.roll(gray, 7, 1) + 20, 0.9 * gray], -1).astype(np.uint8)


DISTURBANCES: dict[str, Disturb] = {"flicker": flicker, "dark": dark, "bands": bands, "interlaced": Interlaced(),
                                    "own_body": own_body, "passer_by": passer_by}


def disturbed(sequence: Sequence, names: list[str]) -> Sequence:
    """Return a sequence with disturbances, `uncalibratedN` (N degrees assumed, or 65) or `stepN` (every N-th image).

    Raises:
        SequenceError: an unknown name.

    """
    for name in names:
        step, fov = name.removeprefix("step"), name.removeprefix("uncalibrated") or "65"
        if name in DISTURBANCES:
            sequence = Disturbed(sequence, DISTURBANCES[name])
        elif name.startswith("uncalibrated") and fov.isdigit() and 0 < int(fov) < 180:
            camera = sequence.camera
            sequence = Disturbed(sequence, camera=Camera.assumed(camera.width, camera.height, float(fov)))
        elif name.startswith("step") and step.isdigit() and int(step) > 0:
            sequence = Disturbed(sequence, step=int(step))
        else:
            known = ", ".join(DISTURBANCES)
            raise SequenceError(f"{name}: not a disturbance; known are {known}, uncalibratedN and stepN")
    return sequence
