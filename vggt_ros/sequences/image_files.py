"""Image files of one camera: their calibration, and each of them as it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vggt_ros.geometry.calibration import doubt
from vggt_ros.geometry.camera import Camera, CameraError
from vggt_ros.sequences.encodings import ImageError
from vggt_ros.sequences.image_header import read_header
from vggt_ros.sequences.image_list import common_form
from vggt_ros.sequences.intake import Intake, check_camera
from vggt_ros.sequences.orientation import Form
from vggt_ros.sequences.sequence import Image, SequenceError
from vggt_ros.storage.files import read_lines

AS_STORED = ("depth.txt", "groundtruth.txt")
"""Files beside images that belong to them as they are stored."""


class ImageFiles:
    """Reads image files of one camera, which have one size, and turns them as EXIF says.

    Attributes:
        camera: of the images as `read` returns them.
        form: what is done with the files.
        assumptions: one line for each thing that is assumed.

    """

    def __init__(self, files: list[Path], folder: Path | None, fov: float) -> None:
        """Read the headers, and `calibration.txt` in `folder`; without it `fov`, degrees, is assumed.

        Raises:
            SequenceError: none of the files is an image, or the calibration cannot be used.

        """
        self.form = common_form(files)
        self.assumptions: tuple[str, ...] = ()
        path = None if folder is None else folder / "calibration.txt"
        calibrated = path is not None and path.exists()
        values = _calibration_values(path) if path is not None and calibrated else ()
        if turn := self.form.description:
            reason = "as EXIF says of most of them"
            owners = [name for name in AS_STORED if folder is not None and (folder / name).exists()]
            if calibrated and not owners:
                if _fits_as_shown(values, self.form):
                    reason += ", since the principal point in calibration.txt is that of the turned images"
                else:
                    owners = ["calibration.txt"]
            if owners:
                self.form = Form(self.form.stored)
                self.assumptions = (f"images as they are stored, although EXIF says that most are shown {turn}, since "
                                    f"{owners[0]} belongs to them as stored",)
            else:
                self.assumptions = (f"all images are {turn}, {reason}",)
        size = self.form.size
        if path is not None and calibrated:
            self.camera = _camera(path, values, size)
            if odd := doubt(self.camera.intrinsics, size):
                self.assumptions += (f"the calibration of {path}, although {odd}",)
        else:
            self.camera = Camera.assumed(*size, fov)
            self.assumptions += (f"a field of view of {fov:g} degrees, since there is no calibration.txt",)

    def read(self, file: Path, intake: Intake) -> Image:
        """Return an image, RGB uint8 (H, W, 3), of the size of `camera`.

        Raises:
            ImageError: the file is missing, no image, damaged, or of another size.

        """
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ImageError("no such file" if not file.exists() else error.strerror or str(error)) from error
        image = intake.decode_file(data)
        image = self.form.apply(image, read_header(data).orientation)
        if image.shape[:2] != (self.camera.height, self.camera.width):
            raise ImageError(f"{image.shape[1]}x{image.shape[0]} pixels, most images have "
                             f"{self.camera.width}x{self.camera.height}")
        return image


def _calibration_values(path: Path) -> tuple[float, ...]:
    """Return the numbers of a file with `fx fy cx cy [k1 k2 p1 p2 [k3]]`."""
    try:
        lines = [line for line in read_lines(path) if line.strip() and not line.startswith("#")]
        values = tuple(float(word) for word in " ".join(lines).split())
        if len(values) < 4:
            raise ValueError(f"it has {len(values)} numbers")
    except ValueError as error:
        raise SequenceError(f"{path}: expected `fx fy cx cy [k1 k2 p1 p2 [k3]]` ({error})") from error
    return values


def _camera(path: Path, values: tuple[float, ...], size: tuple[int, int]) -> Camera:
    fx, fy, cx, cy, *distortion = values
    try:
        camera = Camera(*size, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), tuple(distortion))
        check_camera(camera)
    except CameraError as error:
        raise SequenceError(f"{path}: {error}; expected is `fx fy cx cy [k1 k2 p1 p2 [k3]]` for images of "
                            f"{size[0]}x{size[1]}") from error
    return camera


def _fits_as_shown(values: tuple[float, ...], form: Form) -> bool:
    """Return True if a principal point is closer to the center of the images as shown than as stored."""
    def distance(size: tuple[int, int]) -> float:
        return float(np.hypot(values[2] - (size[0] - 1) / 2, values[3] - (size[1] - 1) / 2))

    return distance(form.size) < distance(form.stored)
