"""Camera models: intrinsics as received, and rectification to the pinhole images that the rest of the package uses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.calibration import COEFFICIENT_COUNTS, CameraError, check_matrix, known_distortion

__all__ = ["COEFFICIENT_COUNTS", "Camera", "CameraError", "Rectifier", "info_field", "is_rectified_topic",
           "nearest_pixels", "pixel_rays", "rectify_depth", "resize_intrinsics", "with_focal"]


@dataclass(frozen=True, eq=False)
class Camera:
    """Intrinsics and distortion of an image as received.

    Attributes:
        width, height: size in pixels.
        intrinsics: float64 (3, 3); integer coordinates are pixel centers.
        distortion: coefficients in OpenCV's order for the model, empty if none.
        model: `plumb_bob`, `rational_polynomial` or `equidistant` (fisheye), as in sensor_msgs/CameraInfo.
        calibrated: False if the field of view is only assumed.

    """

    width: int
    height: int
    intrinsics: NDArray[np.float64]
    distortion: tuple[float, ...] = ()
    model: str = "plumb_bob"
    calibrated: bool = True

    def __post_init__(self) -> None:
        """Check the values, which come from outside the program.

        Raises:
            CameraError: intrinsics or distortion not finite, focal length not positive, or an unknown model.

        """
        if not np.isfinite(self.intrinsics).all() or not np.isfinite(self.distortion).all():
            raise CameraError("the calibration has values that are not finite (NaN or infinite)")
        focal_x, focal_y = self.intrinsics[0, 0], self.intrinsics[1, 1]
        if focal_x <= 0 or focal_y <= 0:
            raise CameraError(f"the focal lengths {focal_x:g}, {focal_y:g} are not positive")
        if self.distortion and len(self.distortion) not in COEFFICIENT_COUNTS.get(self.model, ()):
            raise CameraError(f"distortion model {self.model!r} with {len(self.distortion)} coefficients; known are "
                              + ", ".join(f"{name} with {counts}" for name, counts in COEFFICIENT_COUNTS.items()))

    def size_within(self, longest: int) -> tuple[int, int]:
        """Return (width, height), reduced so that no side is longer than `longest`, px; never enlarged."""
        scale = min(1.0, longest / max(self.width, self.height))
        return round(self.width * scale), round(self.height * scale)

    @staticmethod
    def assumed(width: int, height: int, fov: float) -> Camera:
        """Return a pinhole camera whose longer side shows `fov` degrees, marked as not calibrated.

        A phone sees as much when it is held upright; only its sides are exchanged.
        """
        focal = max(width, height) / 2 / np.tan(np.radians(fov) / 2)
        intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        return Camera(width, height, intrinsics, calibrated=False)

    @staticmethod
    def from_info(info: Any, rectified: bool = False, size: tuple[int, int] = (0, 0)) -> Camera | None:
        """Return the camera of a sensor_msgs/CameraInfo for the images that come with it; None if not calibrated.

        REP-104: K[0] == 0 means not calibrated. K and P are for the full sensor; the image shows the region of interest
        after binning. A `rectified` image has the pinhole matrix of P and no distortion; K may be zero then.

        Args:
            info: the message, or any object with its fields; those of ROS 1 are D, K and P.
            rectified: whether the images are rectified already.
            size: (width, height) of the images, for messages that state none.

        Raises:
            CameraError: the calibration cannot be used.

        """
        full = np.array(info_field(info, "k"), np.float64).reshape(3, 3)
        projection = np.array(info_field(info, "p"), np.float64).reshape(3, 4)[:, :3]
        name = "K"
        if rectified and projection[0, 0] != 0:
            name, full = "P", projection
        if full[0, 0] == 0:
            return None
        model, distortion = ("plumb_bob", ()) if rectified else known_distortion(info.distortion_model,
                                                                                info_field(info, "d"))
        region, bin_x, bin_y = info.roi, max(int(info.binning_x), 1), max(int(info.binning_y), 1)
        sensor = int(info.width) or size[0] * bin_x, int(info.height) or size[1] * bin_y
        check_matrix(name, full, sensor, fisheye=model == "equidistant")
        cropped = full - np.array([[0, 0, region.x_offset], [0, 0, region.y_offset], [0, 0, 0]], np.float64)
        width, height = int(region.width) or sensor[0], int(region.height) or sensor[1]
        if 0 < sensor[0] < region.x_offset + int(region.width) or 0 < sensor[1] < region.y_offset + int(region.height):
            raise CameraError(f"the region of interest, {width}x{height} from {region.x_offset}, {region.y_offset} on, "
                              f"reaches beyond {sensor[0]}x{sensor[1]}, which must be the size of the full image")
        return Camera(width // bin_x, height // bin_y, resize_intrinsics(cropped, 1 / bin_x, 1 / bin_y), distortion,
                      model)


def info_field(info: Any, name: str) -> Any:
    """Return a field of a CameraInfo, whose name has a capital letter in ROS 1."""
    return getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())


def resize_intrinsics(intrinsics: NDArray[np.float64], x: float, y: float) -> NDArray[np.float64]:
    """Return `intrinsics` (3, 3) for an image resized by the factors `x` and `y`; integers are pixel centers."""
    scaled = np.diag([x, y, 1.0]) @ intrinsics
    scaled[:2, 2] += (np.array([x, y]) - 1) / 2
    return scaled


def reduced_size(width: int, height: int, reduced: int) -> tuple[int, int]:
    """Return width and height of an image that is reduced to the width `reduced`; smaller ones are never enlarged.

    Images wider than 16:9, as those of cars are, keep as many pixels as those of 16:9: few rows would be left of them.
    """
    factor = min(1.0, reduced * max(1 / width, np.sqrt(9 / 16 / (width * height))))
    return max(1, round(width * factor)), max(1, round(height * factor))


def with_focal(intrinsics: NDArray[np.float64], focal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a pinhole matrix (3, 3) with another focal length (2,)."""
    changed = intrinsics.copy()
    changed[[0, 1], [0, 1]] = focal
    return changed


def pixel_rays(intrinsics: NDArray[np.float64], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Return the rays (n, 3) at depth 1, in the camera's frame, of pixels at `x` (n,) and `y` (n,)."""
    return np.asarray(np.linalg.solve(intrinsics, np.stack([x, y, np.ones(len(x))])).T, np.float64)


def nearest_pixels(full: int, count: int) -> NDArray[np.int64]:
    """Return the indices (count,) of the nearest rows or columns when a side of `full` pixels is resized to `count`."""
    return ((np.arange(count) + 0.5) * full / count).astype(np.int64)


def is_rectified_topic(topic: str) -> bool:
    """Return True if a topic's name says that its images are rectified, as in image_proc's `image_rect_color`."""
    return re.search(r"(^|[/_])rect(ified)?([/_]|$)", topic) is not None


def rectify_depth(sensor: NDArray[np.float32], camera: Camera, intrinsics: NDArray[np.float64],
                  shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the sensor's depth in a rectified view with `intrinsics` (3, 3) and `shape` (h, w); NaN outside of it.

    The sensor's depth belongs to the distorted image of `camera`, at any resolution of the same aspect ratio. Each
    pixel of the view is distorted and takes the nearest depth, since depth must not be interpolated across edges.
    """
    matrix = resize_intrinsics(camera.intrinsics, sensor.shape[1] / camera.width, sensor.shape[0] / camera.height)
    height, width = shape
    rays = np.stack(np.meshgrid((np.arange(width) - intrinsics[0, 2]) / intrinsics[0, 0],
                                (np.arange(height) - intrinsics[1, 2]) / intrinsics[1, 1]), axis=2).reshape(-1, 1, 2)
    zero, distortion = np.zeros(3), np.array(camera.distortion)
    if camera.model == "equidistant" and camera.distortion:
        pixels = cv2.fisheye.distortPoints(rays, matrix, distortion)
    else:
        points = np.concatenate([rays, np.ones_like(rays[..., :1])], axis=2)
        pixels = cv2.projectPoints(points, zero, zero, matrix, distortion)[0]
    columns, rows = np.rint(np.asarray(pixels).reshape(height, width, 2)).astype(int).transpose(2, 0, 1)
    inside = (rows >= 0) & (rows < sensor.shape[0]) & (columns >= 0) & (columns < sensor.shape[1])
    sampled = np.full((height, width), np.nan, np.float32)
    sampled[inside] = sensor[rows[inside], columns[inside]]
    return sampled


_SMOOTHING = 0.5
"""Standard deviation of the smoothing before an image becomes smaller, in pixels of the smaller image: that is as sharp
as averages of the pixels and a second interpolation."""


class Rectifier:
    """Rectifies images of one camera to pinhole images of one size, keeping the aspect ratio.

    The image is resized to cover the size, undistorted, and cropped evenly on both sides. One with distortion that
    becomes smaller, by less than a factor of two, is smoothed, and then resized and undistorted at once, in half the
    time. The focal length is the camera's, times the smallest zoom at which every pixel of the result lies inside the
    source image.

    Attributes:
        size: (width, height) of the rectified images.
        intrinsics: float64 (3, 3) of the rectified images.
        reduction: 1, 2, 4 or 8: images that are reduced by it already are taken, too, and lose nothing by it.
        is_reducing: whether images become smaller.

    """

    ZOOMS = np.linspace(0.75, 1.5, 76)

    def __init__(self, camera: Camera, size: tuple[int, int], rectified: bool = False) -> None:
        """Prepare for images of `camera`; images that are `rectified` already are only resized and cropped."""
        self.camera, self.size = camera, size
        cover = max(size[0] / camera.width, size[1] / camera.height)
        self._resized = (max(round(camera.width * cover), size[0]), max(round(camera.height * cover), size[1]))
        source = resize_intrinsics(camera.intrinsics, self._resized[0] / camera.width,
                                   self._resized[1] / camera.height)
        self.reduction = max(n for n in (1, 2, 4, 8) if n == 1 or (
            camera.width % n == camera.height % n == 0 and n * self._resized[0] <= camera.width))
        self.is_reducing = self._resized[0] < camera.width
        self._left, self._top = (self._resized[0] - size[0]) // 2, (self._resized[1] - size[1]) // 2
        self.intrinsics = source - np.array([[0, 0, self._left], [0, 0, self._top], [0, 0, 0]], np.float64)
        self._maps: tuple[Any, Any] | None = None
        self._smoothing = 0.0
        if camera.distortion and not rectified:
            self.intrinsics = self._valid_intrinsics(source)
            undistort = cv2.fisheye.initUndistortRectifyMap if camera.model == "equidistant" \
                else cv2.initUndistortRectifyMap
            # By `reduction` at first, which is quick; what is left is done by the maps.
            reduced = camera.width // self.reduction, camera.height // self.reduction
            ratio = reduced[0] / self._resized[0]
            if 1.0 < ratio < 2.0:
                source = resize_intrinsics(camera.intrinsics, reduced[0] / camera.width, reduced[1] / camera.height)
                self._resized, self._smoothing = reduced, _SMOOTHING * ratio
            self._maps = undistort(source, np.array(camera.distortion), np.eye(3), self.intrinsics, size,
                                   cv2.CV_16SC2)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return `image`, RGB uint8 (H, W, 3) or gray (H, W), rectified at `size`.

        It is as received, or reduced by `reduction` already.

        Raises:
            CameraError: the image does not have the camera's size.

        """
        width = image.shape[1]
        if image.shape[:2] not in ((self.camera.height, self.camera.width),
                                   (self.camera.height // self.reduction, self.camera.width // self.reduction)):
            raise CameraError(f"the image has {image.shape[1]}x{image.shape[0]} pixels, its calibration is for "
                              f"{self.camera.width}x{self.camera.height}")
        if self._resized != (width, image.shape[0]):
            smaller = self._resized[0] < width
            method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, self._resized, interpolation=method), np.uint8)
        if self._smoothing:
            image = np.asarray(cv2.GaussianBlur(image, (3, 3), self._smoothing), np.uint8)
        if self._maps is not None:
            return np.asarray(cv2.remap(image, *self._maps, cv2.INTER_LINEAR), np.uint8)
        return np.ascontiguousarray(image[self._top:self._top + self.size[1], self._left:self._left + self.size[0]])

    def _valid_intrinsics(self, source: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the pinhole matrix (3, 3) with the smallest zoom that leaves no pixel empty.

        Rays are sampled from the center to the border of the image. Where the distorted radius stops growing, the
        distortion polynomial is outside the range that it was calibrated for, and pixels fold back into the image.

        Raises:
            CameraError: pixels fold back even at the largest zoom: the coefficients cannot be those of this camera.

        """
        foldless = False
        border = np.concatenate([np.stack([np.linspace(0, self.size[0] - 1, 33), np.full(33, y)], 1)
                                 for y in (0, self.size[1] - 1)]
                                + [np.stack([np.full(33, x), np.linspace(0, self.size[1] - 1, 33)], 1)
                                   for x in (0, self.size[0] - 1)])
        limit = np.array(self._resized) - 1
        for zoom in self.ZOOMS:
            matrix = np.diag([zoom, zoom, 1.0]) @ self.intrinsics
            matrix[:2, 2] = self.intrinsics[:2, 2]
            border_rays = (border - matrix[:2, 2]) / matrix[[0, 1], [0, 1]]
            border_pixels = self._distort(border_rays, source)
            inside = bool((border_pixels >= 0.1).all() and (border_pixels <= limit - 0.1).all())
            if not inside and zoom < self.ZOOMS[-1]:
                continue
            rays = np.linspace(0.05, 1, 20)[:, None, None] * border_rays
            pixels = self._distort(rays.reshape(-1, 2), source).reshape(20, -1, 2)
            radius = np.linalg.norm((pixels - source[:2, 2]) / source[[0, 1], [0, 1]], axis=2)
            foldless = bool((np.diff(radius, axis=0) > 0).all())
            if inside and foldless:
                return matrix
        if not foldless:
            raise CameraError(f"the distortion {self.camera.model} {self.camera.distortion} folds inside the image: "
                              "these are not the coefficients of this camera")
        return self.intrinsics

    def _distort(self, rays: NDArray[np.float64], source: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the pixels (n, 2), in the resized image, of `rays` (n, 2), which are coordinates at depth 1."""
        points, zero = np.concatenate([rays, np.ones((len(rays), 1))], 1)[:, None], np.zeros((3, 1))
        project = cv2.fisheye.projectPoints if self.camera.model == "equidistant" else cv2.projectPoints
        pixels = project(points, zero, zero, source, np.array(self.camera.distortion))[0]
        return np.asarray(pixels, np.float64).reshape(-1, 2)
