"""Image files of one camera: their calibration, and each of them as it is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vggt_ros.geometry.camera import Camera
from vggt_ros.sequences.calibration_file import Calibration, find_calibration
from vggt_ros.sequences.encodings import ImageError
from vggt_ros.sequences.image_header import read_header
from vggt_ros.sequences.image_list import common_form
from vggt_ros.sequences.intake import Intake
from vggt_ros.sequences.orientation import Form
from vggt_ros.sequences.sequence import Image

AS_STORED = ("depth.txt", "groundtruth.txt")
"""Files beside images that belong to them as they are stored."""


class ImageFiles:
    """Reads image files of one camera, which have one size, and turns them as EXIF says.

    Attributes:
        camera: of the images as `read` returns them.
        form: what is done with the files.
        assumptions: one line for each thing that is assumed.

    """

    def __init__(self, files: list[Path], folder: Path | None, fov: float, calibration: Path | None = None) -> None:
        """Read the headers, and `calibration` or one in `folder`; without any `fov`, degrees, is assumed.

        Raises:
            SequenceError: none of the files is an image, or the calibration cannot be used.

        """
        self.form = common_form(files)
        self.assumptions: tuple[str, ...] = ()
        known = find_calibration(calibration, folder)
        if turn := self.form.description:
            reason = "as EXIF says of most of them"
            owners = [name for name in AS_STORED if folder is not None and (folder / name).exists()]
            if known and not owners:
                if _fits_as_shown(known, self.form):
                    reason += f", since the principal point in {known.path.name} is that of the turned images"
                else:
                    owners = [known.path.name]
            if owners:
                self.form = Form(self.form.stored)
                self.assumptions = (f"images as they are stored, although EXIF says that most are shown {turn}, since "
                                    f"{owners[0]} belongs to them as stored",)
            else:
                self.assumptions = (f"all images are {turn}, {reason}",)
        size = self.form.size
        if known:
            self.camera = known.camera(size)
            self.assumptions += known.assumptions(self.camera)
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


def _fits_as_shown(known: Calibration, form: Form) -> bool:
    """Return True if a principal point is closer to the center of the images as shown than as stored."""
    def distance(size: tuple[int, int]) -> float:
        return float(np.hypot(*(known.intrinsics[:2, 2] - (np.array(size) - 1) / 2)))

    return distance(form.size) < distance(form.stored)
