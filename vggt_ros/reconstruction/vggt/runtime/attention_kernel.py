"""The kernel that computes the attention: looked up once, because the plain one needs gigabytes."""

from __future__ import annotations

import torch

from vggt_ros.reconstruction.vggt.device_errors import first_line
from vggt_ros.reconstruction.vggt.model.sizes import Sizes

PLAIN = "plain"
_NAMES = {0: PLAIN, 1: "flash", 2: "memory-efficient", 3: "cuDNN", 4: "of the device"}
"""Kernels by their number in `torch.nn.attention.SDPBackend`."""


def attention_kernel(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> str:
    """Return the name of the kernel that torch chooses for the heads of the aggregator; or `unknown`, with the reason.

    The choice depends on the GPU, on the type and on how torch was built, not on the number of tokens.
    """
    q = torch.zeros(1, sizes.heads, 512, sizes.embed_dim // sizes.heads, dtype=dtype, device=device)
    try:
        return _NAMES.get(int(torch._fused_sdp_choice(q, q, q)), "unknown")
    except Exception as error:  # a private function: it may change, and a check must not end the loading
        return f"unknown ({first_line(error)})"


def plain_attention_warning(sizes: Sizes, dtype: torch.dtype, frames: int, height: int, width: int) -> str:
    """Return what the plain kernel costs for a window of these images, and the cure."""
    tokens = frames * (1 + sizes.registers + height * width // sizes.patch**2)
    scores = sizes.heads * tokens**2 * dtype.itemsize
    return (f"attention runs by the plain kernel of torch, with {scores / 1e9:.1f} GB of scores in a block for "
            f"{frames} images of {width}x{height}: it is slow and windows are split early. This build of torch has no "
            "fused attention for this device and type: set vggt.dtype to auto, install another build of torch "
            "(docs/how-to/jetson.md), or lower windows.size or vggt.width")
