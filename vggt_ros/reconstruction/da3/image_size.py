"""The image size of the network; without torch."""

from __future__ import annotations

from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.da3.sizes import PATCH


def network_size(camera: Camera, longest: int) -> tuple[int, int]:
    """Return width and height for images of a camera: the longer side `longest`, both multiples of 14.

    As in the package (`upper_bound_resize`): rounded to the nearest multiple, up in the middle. 4:3 gives 504x378, 16:9
    504x280, at 504.
    """
    scale = longest / max(camera.width, camera.height)
    width, height = (max(1, (2 * max(1, round(side * scale)) + PATCH) // (2 * PATCH)) * PATCH
                     for side in (camera.width, camera.height))
    return width, height
