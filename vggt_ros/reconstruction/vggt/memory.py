"""How much memory and work a window needs, known before it is tried."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from vggt_ros.reconstruction.vggt.sizes import Sizes
from vggt_ros.reconstruction.vggt.weights import HEADS, shapes, stored


def weight_bytes(sizes: Sizes, storage: torch.dtype, outputs: Collection[str]) -> int:
    """Return the bytes of the weights that are loaded: the aggregator's matrices in their type, the rest in float32."""
    unused = tuple(f"{head}." for output, head in HEADS.items() if output not in outputs)
    return sum(math.prod(shape) * stored(name, shape, storage).itemsize
               for name, shape in shapes(sizes).items() if not name.startswith(unused))


def activation_bytes(sizes: Sizes, frames: int, height: int, width: int, compute_bytes: int) -> int:
    """Return the most bytes that live beside the weights while a window is computed.

    In the aggregator: two copies of the tokens and what the widest of a block's steps makes of them; always the layers
    kept for the heads. In a dense head, of one frame at a time: three maps of the image's size, in float32.
    """
    tokens = frames * (1 + sizes.registers + height * width // sizes.patch**2)
    kept = len({*sizes.taps, sizes.depth - 1}) * tokens * 2 * sizes.embed_dim * 4
    mlp = tokens * sizes.embed_dim * (3 * 4 + 2 * 4 * compute_bytes)
    attention = tokens * sizes.embed_dim * (3 * 4 + 3 * compute_bytes + 4 * 4)
    dense = 3 * (sizes.features // 2) * height * width * 4
    return kept + max(mlp, attention, dense) + frames * height * width * (3 + 2) * 4


def window_bytes(sizes: Sizes, frames: int, height: int, width: int, storage: torch.dtype, compute: torch.dtype,
                 outputs: Collection[str] = ("cameras", "depth")) -> int:
    """Return the bytes that a window of `frames` images needs, weights included."""
    return weight_bytes(sizes, storage, outputs) \
        + activation_bytes(sizes, frames, height, width, compute.itemsize)


def work(sizes: Sizes, frames: int, height: int, width: int, reused: int = 0) -> float:
    """Return the TFLOP (two for a multiplication and an addition) of cameras and depth for a window.

    Args:
        sizes: of the network.
        frames, height, width: of the window's images.
        reused: frames whose encoder tokens are at hand.

    """
    dim, tokens = sizes.embed_dim, 1 + sizes.registers + height * width / sizes.patch**2

    def blocks(count: int, length: float) -> float:
        return count * (24 * dim**2 * length + 4 * dim * length**2) * 1e-12

    dense = 0.23 * (sizes.features / 256) ** 2 * height * width / (518 * 392)
    return (frames - reused) * blocks(sizes.encoder_depth, tokens) + frames * blocks(sizes.depth, tokens) \
        + blocks(sizes.depth, frames * tokens) + frames * dense
