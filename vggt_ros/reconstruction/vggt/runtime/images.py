"""Copies of images and results to and from the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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
