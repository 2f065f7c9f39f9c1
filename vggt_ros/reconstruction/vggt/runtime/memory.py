"""A model of the memory and the computation that a window needs, to decide beforehand whether it fits."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from vggt_ros.reconstruction.vggt.checkpoints.weights import storage_dtype, tensor_shapes, unused_prefixes
from vggt_ros.reconstruction.vggt.model.sizes import Sizes
from vggt_ros.reconstruction.vggt.model.track_head import CORRELATED, LEVELS, RADIUS, STRIDE, VIRTUAL_TRACKS

WORKSPACES = 0.1
"""Fraction of a GPU's free memory that is left to the workspaces of cuBLAS and cuDNN, and to fragmentation."""
QUERY_STEP = 32
"""Distance of the points that are tracked, pixels."""


@dataclass(frozen=True)
class Mode:
    """How the network runs, as far as memory depends on it.

    Attributes:
        compute_bytes: bytes of a number in the products of the aggregator.
        outputs: the outputs that are computed, as in `Network.decode`.
        chunk: number of frames that the dense heads process at a time.
        plain_attention: whether attention computes all scores at once, for lack of a fused kernel.

    """

    compute_bytes: int = 4
    outputs: Collection[str] = ("cameras", "depth")
    chunk: int = 1
    plain_attention: bool = False


def weight_bytes(sizes: Sizes, storage: torch.dtype, outputs: Collection[str]) -> int:
    """Return the bytes of the loaded weights: the matrices of the aggregator in type `storage`, the rest in float32."""
    unused = unused_prefixes(outputs)
    return sum(math.prod(shape) * storage_dtype(name, shape, storage).itemsize
               for name, shape in tensor_shapes(sizes).items() if not name.startswith(unused))


def is_integrated(device: torch.device) -> bool:
    """Return True if a GPU has no memory of its own, as on a Jetson."""
    return device.type == "cuda" and bool(torch.cuda.get_device_properties(device).is_integrated)


def system_available(meminfo: Path = Path("/proc/meminfo")) -> float:
    """Return the bytes that the system can give to programs, those of its page cache included; infinite if unknown."""
    try:
        lines = meminfo.read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return math.inf


def free_bytes(device: torch.device) -> float:
    """Return the bytes that are available now for weights and windows; infinite where the system does not say.

    Memory that the allocator of torch holds and does not use counts as available. On a GPU without memory of its own
    CUDA does not count the page cache as free, which loading the weights has filled; the system does.
    """
    if device.type != "cuda":
        return system_available()
    free = torch.cuda.mem_get_info(device)[0] if not is_integrated(device) else system_available()
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (1 - WORKSPACES) * (free + held)


def available_bytes(device: torch.device, limit: float) -> float:
    """Return the bytes available for weights and windows: `limit` GB (0: no limit), and at most the free memory."""
    return min(1e9 * limit if limit > 0 else math.inf, free_bytes(device))


def activation_bytes(sizes: Sizes, frames: int, height: int, width: int, mode: Mode) -> int:
    """Return the peak bytes allocated in addition to the weights while a window is computed.

    Always allocated: the encoder tokens of this window and of the previous one, and the position tables. In addition
    the largest of three: the last block of the aggregator with the layers kept for the heads, the widest step of a
    dense head for `chunk` frames at a time with the outputs of the preceding heads, or the same for the track head.
    """
    dim, patches = sizes.embed_dim, height * width // sizes.patch**2
    tokens, taps = frames * (1 + sizes.registers + patches), len({*sizes.taps, sizes.depth - 1})
    encoded, layer = 4 * frames * patches * dim, 4 * tokens * 2 * dim
    attention = tokens * dim * (3 * 4 + 3 * mode.compute_bytes + 5 * 4)
    if mode.plain_attention:  # scores and their softmax, in float32, and copies of queries, keys and values
        attention += int(2.2 * 4 * sizes.heads * tokens**2)
    mlp = tokens * dim * (3 * 4 + 8 * mode.compute_bytes)
    outputs, chunk = set(mode.outputs), min(mode.chunk, frames)
    pixels, cells = chunk * height * width, chunk * 64 * patches
    pyramid = 4 * sizes.features * (2 * cells + cells // 4)
    image = 4 * (sizes.features // 2) * pixels + 4 * 2 * 32 * pixels
    # Convolutions may convert their weights to another layout in every call, for several images to two.
    converted = 4 * 9 * sizes.out_channels[3] ** 2 * min(chunk, 2)
    heads = len(outputs & {"depth", "points"})
    maps = 4 * frames * height * width * (6 + 5 * ("points" in outputs))
    tables = 4 * (sizes.features // 2) * height * width * (heads > 0) + 8 * tokens * dim // sizes.heads
    steps = [(taps - 1) * layer + max(attention, mlp) + layer,
             taps * layer + maps + max(pyramid, image, converted) * (heads > 0)]
    if "tracks" in outputs:
        table, track_step = _track_bytes(sizes, frames, height, width, chunk)
        tables += table
        steps.append(taps * layer + maps + track_step)
    return 2 * encoded + tables + max(steps)


def _track_bytes(sizes: Sizes, frames: int, height: int, width: int, chunk: int) -> tuple[int, int]:
    """Return the bytes of the position table of the track head, and of its widest step."""
    pixels, channels, hidden = height // STRIDE * (width // STRIDE), sizes.track_features, sizes.track_hidden
    queries = len(range(QUERY_STEP // 2, height, QUERY_STEP)) * len(range(QUERY_STEP // 2, width, QUERY_STEP))
    inputs, offsets = 3 * channels + 4, (2 * RADIUS + 1) ** 2
    maps = 4 * frames * channels * pixels
    cells = chunk * 64 * height * width // sizes.patch**2
    extract = max(4 * channels * (2 * cells + cells // 4), 4 * 3 * chunk * channels * pixels,
                  4 * 9 * sizes.track_channels[3] ** 2 * min(chunk, 2))
    samples = min(max(CORRELATED, frames * offsets), frames * queries * offsets)
    correlation = 4 * samples * (2 * channels + 4)
    tracks = 4 * frames * queries * (LEVELS * offsets * 2 + 4 * inputs)
    update = 4 * frames * (queries + VIRTUAL_TRACKS) * hidden * 12
    return 4 * inputs * pixels, max(maps + extract, maps * 4 // 3 + tracks + max(correlation, update))


def window_bytes(sizes: Sizes, frames: int, height: int, width: int, storage: torch.dtype, mode: Mode) -> int:
    """Return the bytes that a window of `frames` images needs, including the weights."""
    return weight_bytes(sizes, storage, mode.outputs) + activation_bytes(sizes, frames, height, width, mode)


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
