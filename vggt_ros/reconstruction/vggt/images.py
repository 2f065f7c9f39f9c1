"""Image size of the network, and copies to and from the device.

The rectifier resizes and crops the images, so that the intrinsics always match the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggt_ros.geometry.camera import Camera


def network_size(camera: Camera, width: int, patch: int = 14) -> tuple[int, int]:
    """Return width and height, multiples of `patch`, for images of a camera.

    As published: images are resized to `width`, the height follows from the aspect ratio, rounded to the nearest
    multiple; a height larger than the width is cropped to the width. 4:3 gives 518x392, 16:9 518x294.
    """
    columns = max(width // patch, 1)
    rows = round(columns * camera.height / camera.width)
    return patch * columns, patch * min(max(rows, 1), columns)


def to_host(*values: Tensor) -> list[NDArray[Any]]:
    """Return tensors of one device as arrays; the copies are asynchronous, with one synchronization for all."""
    if not values[0].is_cuda:
        return [value.numpy() for value in values]
    copies = [torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
              for value in values]
    torch.cuda.current_stream(values[0].device).synchronize()
    return [copy.numpy() for copy in copies]


def to_tensor(images: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """Return RGB float32 (S, 3, H, W) in [0, 1] on `device` for images uint8 (H, W, 3), with an asynchronous copy."""
    pixels = torch.from_numpy(np.stack(images))
    if device.type == "cuda":
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    return pixels.permute(0, 3, 1, 2).float() / 255
