"""The image size of the network; without torch, because the node asks for it in another process."""

from __future__ import annotations

from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.vggt.model.sizes import PATCH


def network_size(camera: Camera, width: int) -> tuple[int, int]:
    """Return width and height, multiples of `PATCH`, for images of a camera.

    As published: images are resized to `width`, the height follows from the aspect ratio, rounded to the nearest
    multiple; a height larger than the width is cropped to the width. 4:3 gives 518x392, 16:9 518x294.
    """
    columns = max(width // PATCH, 1)
    rows = round(columns * camera.height / camera.width)
    return PATCH * columns, PATCH * min(max(rows, 1), columns)
