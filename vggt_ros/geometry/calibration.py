"""Checks of a calibration from outside the program: a matrix or a distortion that cannot be right is named."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COEFFICIENT_COUNTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
"""Allowed numbers of coefficients of each distortion model of sensor_msgs/CameraInfo, in OpenCV's order."""
_OTHER_NAMES = {"fisheye": "equidistant", "kannala_brandt": "equidistant", "kannala_brandt4": "equidistant",
                "equi": "equidistant", "radtan": "plumb_bob", "radial_tangential": "plumb_bob", "none": "plumb_bob",
                "brown_conrady": "plumb_bob", "plumbbob": "plumb_bob"}
"""Names of these models in some drivers and tools: OpenCV, Kalibr, EuRoC, RealSense."""
_MAX_FOCAL_RATIO = 3.0
"""Largest ratio of the focal lengths: pixels are about square; binning or resizing one side may double one of them."""
_MAX_OFF_CENTER = 0.15
"""Share of a side by which a principal point may be off the center along both sides before it is odd."""
_FIELDS_OF_VIEW = 0.5, 170.0
"""Horizontal fields of view of pinhole images, degrees: of a telescope, and more than any plane image shows."""


class CameraError(ValueError):
    """A calibration cannot be used; the text says what is wrong with it."""


def check_matrix(name: str, matrix: NDArray[np.float64], size: tuple[int, int], fisheye: bool = False) -> None:
    """Check a camera matrix (3, 3), called `name` in errors, for images of `size` (width, height), 0 if unknown.

    Raises:
        CameraError: a value is not finite, the matrix is not one of a camera (transposed, scaled or mixed up), a focal
            length is not positive or far from the other one, or the principal point is outside the image.

    """
    if not np.isfinite(matrix).all():
        raise CameraError(f"the calibration has values that are not finite (NaN or infinite) in {name}")
    focal_x, focal_y, (x, y) = matrix[0, 0], matrix[1, 1], matrix[:2, 2]
    if focal_x <= 0 or focal_y <= 0:
        raise CameraError(f"the focal lengths {focal_x:g}, {focal_y:g} in {name} are not positive")
    if np.abs(matrix[2] - (0, 0, 1)).max() > 1e-6 or abs(matrix[1, 0]) > 1e-6 * focal_y:
        rows = "; ".join(" ".join(f"{value:g}" for value in row) for row in matrix)
        raise CameraError(f"{name} is not `fx 0 cx; 0 fy cy; 0 0 1` but `{rows}`; is it transposed, or scaled?")
    if not 1 / _MAX_FOCAL_RATIO <= focal_x / focal_y <= _MAX_FOCAL_RATIO:
        raise CameraError(f"the focal lengths {focal_x:g}, {focal_y:g} px in {name} are too far from each other")
    width, height = size
    if width > 0 and height > 0:
        if x == 0 and y == 0:
            raise CameraError(f"the principal point in {name} is 0, 0: it is not set; right is about the center")
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            raise CameraError(f"the principal point {x:g}, {y:g} in {name} is outside the image of {width}x{height}")
        degrees = math.degrees(2 * math.atan(width / 2 / focal_x))
        if not fisheye and not _FIELDS_OF_VIEW[0] <= degrees <= _FIELDS_OF_VIEW[1]:
            raise CameraError(f"the focal length {focal_x:g} px in {name} is a field of view of {degrees:.3g} degrees "
                              f"of an image of {width} px; are its units pixels?")


def doubt(matrix: NDArray[np.float64], size: tuple[int, int]) -> str:
    """Return why a camera matrix (3, 3) may be for images of another size than (width, height); else empty.

    Its principal point is then off the center along both sides. That of a region of a larger image may be, too.
    """
    x, y = (matrix[0, 2] + 0.5) / size[0] - 0.5, (matrix[1, 2] + 0.5) / size[1] - 0.5
    if min(abs(x), abs(y)) < _MAX_OFF_CENTER or x * y < 0:
        return ""
    scale = 1 + x + y  # twice the principal point as a share of the size, mean of both
    return (f"the principal point {matrix[0, 2]:g}, {matrix[1, 2]:g} is far from the center of images of "
            f"{size[0]}x{size[1]}: is the calibration for about {round(size[0] * scale)}x{round(size[1] * scale)}?")


def known_distortion(model: str, coefficients: Sequence[float]) -> tuple[str, tuple[float, ...]]:
    """Return model and coefficients as OpenCV takes them, without trailing zeros that the model does not have.

    Some drivers send arrays of a fixed length; and OpenCV's calibration yields eight coefficients, which others call
    plumb_bob: then the model is rational_polynomial. One of that name with four or five is plumb_bob. Capitals, spaces
    and hyphens in the name mean nothing.

    Raises:
        CameraError: the model is unknown, or the number of coefficients is none of its own.

    """
    values = tuple(float(value) for value in coefficients)
    if not np.isfinite(values).all():
        raise CameraError("the calibration has values that are not finite (NaN or infinite) in its distortion")
    if not any(values):
        return model or "plumb_bob", ()
    spelled = re.sub(r"[\s-]+", "_", model.strip().lower())
    spelled = _OTHER_NAMES.get(spelled, spelled) or "plumb_bob"
    model = spelled if spelled in COEFFICIENT_COUNTS else model
    counts = COEFFICIENT_COUNTS.get(model, ())
    shorter = values
    while shorter and shorter[-1] == 0 and len(shorter) not in counts:
        shorter = shorter[:-1]
    if len(shorter) in counts:
        return model, shorter
    if model == "plumb_bob" and len(values) in COEFFICIENT_COUNTS["rational_polynomial"]:
        return "rational_polynomial", values
    if model == "rational_polynomial" and len(values) in COEFFICIENT_COUNTS["plumb_bob"]:
        return "plumb_bob", values
    raise CameraError(f"distortion model {model!r} with {len(values)} coefficients; known are "
                      + ", ".join(f"{name} with {counts}" for name, counts in COEFFICIENT_COUNTS.items()))
