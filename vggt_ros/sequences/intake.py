"""How images and calibrations of one camera are taken in: the same for the node, which gets them live, and `replay`.

What is refused is refused with the reason, as an `ImageError` or a `CameraError`, which the caller counts and reports.
Of what a sender writes, only the newest calibration is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from vggt_ros.geometry.calibration import check_matrix, doubt
from vggt_ros.geometry.camera import Camera, CameraError, Rectifier, info_field
from vggt_ros.native_stderr import held_back
from vggt_ros.sequences.encodings import (
    Image,
    ImageError,
    decode,
    decode_compressed,
    demosaiced,
    mosaic_of,
)
from vggt_ros.sequences.gray_range import GrayRange
from vggt_ros.sequences.image_header import ImageHeader, read_header

_LOG = logging.getLogger(__name__)
MIN_SIDE, MAX_ASPECT = 32, 10
"""Fewest pixels of a side, and largest ratio of the sides: in thinner images nothing can be tracked."""
MAX_PIXELS = 1 << 27
"""Most pixels of an image before its size is known otherwise; a decoder needs three to four bytes for each."""
_GROWTH = 16
"""Images of an uncalibrated camera may grow by this factor in pixels, such as from VGA to 4K."""
_DARK, _DARK_SHARE = 24, 0.99
"""An image is dark if this share of its pixels is below this gray value."""
_TRIAL_SIZE = 320
"""Longest side at which a distortion is tried out, px."""


class Intake:
    """Takes in the images and the calibrations of one camera.

    Attributes:
        rectified: whether the images are rectified already.
        problem: why the newest CameraInfo is not used, empty if it is; an earlier one that can be used is kept.
        doubt: what is odd about the calibration in use, empty if nothing is.
        damaged: number of JPEGs of which only a part could be decoded, or that have bytes too many.

    """

    def __init__(self, rectified: bool = False) -> None:
        """Begin without a calibration."""
        self.rectified = rectified
        self.problem, self.doubt, self.damaged = "", "", 0
        self._info: Any = None
        self._wrong_info: Any = None
        self._is_new = False
        self._camera: Camera | None = None
        self._size: tuple[int, int] | None = None
        self._gray_range = GrayRange()

    # Calibration.

    def add_info(self, info: Any) -> bool:
        """Take a sensor_msgs/CameraInfo; return True if it is a new calibration, used from the next image on."""
        if self._wrong_info is not None and same_calibration(info, self._wrong_info):
            return False
        if self._info is not None and same_calibration(info, self._info):
            self.problem, self._wrong_info = "", None
            return False
        try:
            camera = self._checked(info, (0, 0))
        except CameraError as error:
            self.problem, self._wrong_info = str(error), info
            return False
        self.problem, self._wrong_info = "" if camera else _uncalibrated(info), None
        if camera is None:
            return False
        self._info, self._is_new = info, True
        return True

    def camera(self, width: int, height: int) -> Camera | None:
        """Return the calibrated camera of images of this size; None if there is no calibration.

        It is that of the newest CameraInfo that can be used for this size.

        Raises:
            CameraError: the calibration is wrong, or for images of another size.

        """
        known = self._camera if self._camera and (self._camera.width, self._camera.height) == (width, height) else None
        if known is not None and not self._is_new:
            return known
        if self._info is None:
            if self._wrong_info is not None:
                raise CameraError(self.problem)
            return None
        try:
            camera = self._checked(self._info, (width, height))
            assert camera is not None
            if (camera.width, camera.height) != (width, height):
                raise CameraError(f"the image has {width}x{height} pixels, the calibration is for "
                                  f"{camera.width}x{camera.height}; publish it for the size of the images")
        except CameraError as error:
            self.problem, self._is_new = str(error), False
            if known is None:
                raise
            return known
        self._camera, self._is_new = camera, False
        is_part = self._info.roi.width or self._info.roi.x_offset or self._info.roi.y_offset
        self.doubt = "" if is_part else doubt(camera.intrinsics, (width, height))
        return camera

    def _checked(self, info: Any, size: tuple[int, int]) -> Camera | None:
        """Return the camera of a CameraInfo for images of `size`, after its distortion was tried out."""
        camera = Camera.from_info(info, self.rectified, size)
        if camera is not None and size in ((0, 0), (camera.width, camera.height)):
            try_distortion(camera)
        return camera

    # Images.

    def decode(self, message: Any) -> Image:
        """Return the image of a sensor_msgs/Image or CompressedImage as RGB, uint8 (H, W, 3).

        Raises:
            ImageError: it is empty, too thin or too large, its encoding is not supported, or its bytes are damaged.
            CameraError: it is not of the size that the calibration is for, which is checked before it is decoded.

        """
        if not hasattr(message, "encoding"):
            return self.decode_file(message.data, message.format, kinds=("jpeg", "png"))
        if message.width and message.height:
            self._check_size(message.width, message.height)
        return self._taken(decode(message.encoding, message.height, message.width, message.step,
                                  bool(message.is_bigendian), message.data, self._gray_range))

    def decode_file(self, data: Any, name: str = "", kinds: Iterable[str] = ()) -> Image:
        """Return an encoded image as RGB, uint8 (H, W, 3); its `name` is for errors; raises as `decode` does.

        Only the `kinds` of `image_header` are taken; all of them, if there are none.
        """
        header = self._check_header(data, name, kinds)
        image = self._decompressed(name or header.kind, data, gray_range=self._gray_range)
        if header.channels == 1 and (pattern := mosaic_of(name)):
            image = demosaiced(pattern, np.ascontiguousarray(image[..., 0]))
        return self._taken(image)

    def decode_gray(self, message: Any, size: tuple[int, int],
                    reduction: int) -> tuple[Image, Callable[[], Image]] | None:
        """Return a JPEG of this (width, height) in gray, uint8 (h, w), and what decodes it as RGB, uint8 (h, w, 3).

        Both are reduced by `reduction`, see `encodings.decode_compressed`. None for all other images; raises as
        `decode` does.
        """
        if hasattr(message, "encoding"):
            return None
        header = self._check_header(message.data, message.format, kinds=("jpeg", "png"))
        if header.kind != "jpeg" or (header.width, header.height) != size or mosaic_of(message.format):
            return None
        gray = self._decompressed(message.format, message.data, reduction=reduction, gray=True)
        self._size = size

        def in_color() -> Image:
            with held_back():  # as for the gray one
                return decode_compressed(message.format, message.data, reduction=reduction)

        return gray, in_color

    def _decompressed(self, name: str, data: Any, **options: Any) -> Image:
        """Return what `decode_compressed` does; the more images are damaged, the less often the log says so."""
        with held_back() as lines:
            image = decode_compressed(name, data, **options)
        if lines:
            self.damaged += 1
            if self.damaged & (self.damaged - 1) == 0:  # 1, 2, 4, 8, ...
                _LOG.warning("%d images are damaged so far, but used as far as they can be decoded; the newest: %s",
                             self.damaged, lines[0])
        return image

    def _check_header(self, data: Any, name: str, kinds: Iterable[str]) -> ImageHeader:
        """Return the header of an encoded image; raises an error for one that cannot be used."""
        if len(data) == 0:
            raise ImageError("the image is empty (0 bytes)")
        try:
            header = read_header(bytes(data))
        except ImageError as error:
            text = f"{error}; {' and '.join(kinds)} are supported" if kinds else str(error)
            raise ImageError(f"format {name!r} cannot be decoded: {text}" if name else text) from error
        if kinds and header.kind not in kinds:
            raise ImageError(f"format {name!r} cannot be decoded: {header.kind}; {' and '.join(kinds)} are supported")
        self._check_size(header.width, header.height)
        return header

    def accept(self, image: Image) -> Image:
        """Return an image that was decoded elsewhere, RGB uint8 (H, W, 3); raises as `decode` does."""
        self._check_size(image.shape[1], image.shape[0])
        return self._taken(image)

    def _check_size(self, width: int, height: int) -> None:
        """Raise an error for a size that cannot be used; called before the pixels are allocated."""
        if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
            raise ImageError(f"{width}x{height} pixels are too thin: no side may have less than {MIN_SIDE}, nor more "
                             f"than {MAX_ASPECT} times the other one")
        self.camera(width, height)
        known = MAX_PIXELS if self._size is None else min(MAX_PIXELS, _GROWTH * self._size[0] * self._size[1])
        if width * height > known:
            raise ImageError(f"{width}x{height} pixels are too many; at most {known} are expected")

    def _taken(self, image: Image) -> Image:
        self._size = image.shape[1], image.shape[0]
        return image


def check_camera(camera: Camera) -> None:
    """Check a calibration that does not come from a CameraInfo; raises CameraError."""
    check_matrix("the calibration", camera.intrinsics, (camera.width, camera.height), camera.model == "equidistant")
    try_distortion(camera)


def try_distortion(camera: Camera) -> None:
    """Rectify by a camera's distortion, if it has one and a size; raises CameraError if it folds inside the image."""
    if camera.distortion and camera.width and camera.height:
        Rectifier(camera, camera.size_within(_TRIAL_SIZE))


def darkness(image: Image) -> str:
    """Return what is wrong with an RGB or gray image in which it is too dark to track anything; empty if nothing is."""
    sample = image[::8, ::8]
    sample = sample if sample.ndim == 2 else sample.max(axis=2)
    if sample.max() < 8:
        return "the image is all black"
    if (sample < _DARK).mean() > _DARK_SHARE:
        return (f"the image is dark: {100 * _DARK_SHARE:.0f} % of its pixels are below {_DARK} of 255; raise the "
                "exposure or the gain of the camera")
    return ""


def same_calibration(info: Any, other: Any) -> bool:
    """Return True if two CameraInfo have the same calibration; changes below 0.2 %, by an autofocus, are ignored."""
    if any(getattr(info, name) != getattr(other, name)
           for name in ("width", "height", "distortion_model", "binning_x", "binning_y")):
        return False
    if any(getattr(info.roi, name) != getattr(other.roi, name) for name in ("x_offset", "y_offset", "width", "height")):
        return False
    pairs = [(np.array(info_field(info, name)), np.array(info_field(other, name))) for name in "kdp"]
    return all(len(one) == len(two) and np.allclose(one, two, rtol=0.002, atol=1e-6, equal_nan=True)
               for one, two in pairs)


def _uncalibrated(info: Any) -> str:
    reason = "K[0] is 0, which means not calibrated (REP-104)"
    return f"{reason}; P is valid: if the images are rectified, set camera.rectified to true" \
        if info_field(info, "p")[0] else reason
