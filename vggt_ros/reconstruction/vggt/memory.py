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


def free(device: torch.device, limit: float) -> float:
    """Return the bytes that weights and windows may take: at most `limit` GB unless that is 0, and what a GPU has."""
    allowed = 1e9 * limit if limit > 0 else math.inf
    return min(allowed, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else allowed


def unused(device: torch.device) -> float:
    """Return the bytes of a GPU that a window may take now; a CPU's are not known beforehand."""
    if device.type != "cuda":
        return math.inf
    held_back = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held_back


def is_short(error: BaseException) -> bool:
    """Return True if an error of torch says that memory ran out, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def activation_bytes(sizes: Sizes, frames: int, height: int, width: int, compute_bytes: int,
                     outputs: Collection[str] = ("cameras", "depth"), chunk: int = 1) -> int:
    """Return the most bytes that live beside the weights while a window is computed.

    Throughout: the encoder's tokens, and those of the window before. Then either the aggregator's last block, with the
    layers kept for the heads, or a dense head's widest step, for `chunk` frames at a time, with what heads before it
    have computed. Tables count too, although they are made only once.
    """
    dim, patches = sizes.embed_dim, height * width // sizes.patch**2
    tokens, taps = frames * (1 + sizes.registers + patches), len({*sizes.taps, sizes.depth - 1})
    encoded, layer = 4 * frames * patches * dim, 4 * tokens * 2 * dim
    attention = tokens * dim * (3 * 4 + 3 * compute_bytes + 5 * 4)
    mlp = tokens * dim * (3 * 4 + 8 * compute_bytes)
    pixels, cells = min(chunk, frames) * height * width, min(chunk, frames) * 64 * patches
    pyramid = 4 * sizes.features * (2 * cells + cells // 4)
    image = 4 * (sizes.features // 2) * pixels + 4 * 2 * 32 * pixels
    heads = len(set(outputs) & {"depth", "points"})
    maps = 4 * frames * height * width * (6 + 5 * ("points" in outputs))
    tables = 4 * (sizes.features // 2) * height * width * (heads > 0) + 8 * tokens * dim // sizes.heads
    return 2 * encoded + tables + max((taps - 1) * layer + max(attention, mlp) + layer,
                                      taps * layer + maps + max(pyramid, image) * (heads > 0))


def window_bytes(sizes: Sizes, frames: int, height: int, width: int, storage: torch.dtype, compute: torch.dtype,
                 outputs: Collection[str] = ("cameras", "depth"), chunk: int = 1) -> int:
    """Return the bytes that a window of `frames` images needs, weights included."""
    return weight_bytes(sizes, storage, outputs) \
        + activation_bytes(sizes, frames, height, width, compute.itemsize, outputs, chunk)


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
