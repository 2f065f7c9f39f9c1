"""A model of the memory and the computation that a window needs, to decide beforehand whether it fits."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from vggt_ros.reconstruction.vggt.sizes import Sizes
from vggt_ros.reconstruction.vggt.weights import storage_dtype, tensor_shapes, unused_prefixes


def weight_bytes(sizes: Sizes, storage: torch.dtype, outputs: Collection[str]) -> int:
    """Return the bytes of the loaded weights: the matrices of the aggregator in type `storage`, the rest in float32."""
    unused = unused_prefixes(outputs)
    return sum(math.prod(shape) * storage_dtype(name, shape, storage).itemsize
               for name, shape in tensor_shapes(sizes).items() if not name.startswith(unused))


def available_bytes(device: torch.device, limit: float) -> float:
    """Return the bytes available for weights and windows: `limit` GB (0: no limit), and at most the free GPU memory."""
    allowed = 1e9 * limit if limit > 0 else math.inf
    return min(allowed, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else allowed


def free_gpu_bytes(device: torch.device) -> float:
    """Return the bytes of GPU memory available for a window now; infinite for a CPU, where this is not known."""
    if device.type != "cuda":
        return math.inf
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserved


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error of torch means out of memory, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def activation_bytes(sizes: Sizes, frames: int, height: int, width: int, compute_bytes: int,
                     outputs: Collection[str] = ("cameras", "depth"), chunk: int = 1) -> int:
    """Return the peak bytes allocated in addition to the weights while a window is computed.

    Always allocated: the encoder tokens of this window and of the previous one, and the position tables. In addition
    the larger of two: the last block of the aggregator with the layers kept for the heads, or the widest step of a
    dense head for `chunk` frames at a time with the outputs of the preceding heads.
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
    """Return the bytes that a window of `frames` images needs, including the weights."""
    return weight_bytes(sizes, storage, outputs) \
        + activation_bytes(sizes, frames, height, width, compute.itemsize, outputs, chunk)


def window_tflop(sizes: Sizes, frames: int, height: int, width: int, reused: int = 0) -> float:
    """Return the TFLOP to compute cameras and depth of a window (a multiplication with an addition counts as two).

    Args:
        sizes: sizes of the network.
        frames, height, width: number and size of the images of the window.
        reused: number of frames whose encoder tokens are cached.

    """
    dim, tokens = sizes.embed_dim, 1 + sizes.registers + height * width / sizes.patch**2

    def blocks(count: int, length: float) -> float:
        return count * (24 * dim**2 * length + 4 * dim * length**2) * 1e-12

    dense = 0.23 * (sizes.features / 256) ** 2 * height * width / (518 * 392)
    return (frames - reused) * blocks(sizes.encoder_depth, tokens) + frames * blocks(sizes.depth, tokens) \
        + blocks(sizes.depth, frames * tokens) + frames * dense
