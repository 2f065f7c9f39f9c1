"""Pseudo-random weights, reproducible from names, shapes and a seed, and images: inputs of the reference outputs."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.reconstruction.vggt.model.sizes import Sizes

Float = NDArray[np.float32]


def weight(name: str, shape: tuple[int, ...], seed: int) -> Float:
    """Return the tensor `name` of a state dict: normal random numbers seeded by `seed` and name, scaled by its type."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{name}".encode())))
    normal = generator.standard_normal(size=shape, dtype=np.float32)
    if name == "camera_head.pose_branch.fc2.weight":
        return np.float32(0.1) * normal / np.float32(np.sqrt(shape[1]))
    if name == "camera_head.pose_branch.fc2.bias":
        return np.array([0, 0, 0, 0, 0, 0, 0.25, 0.25, 0.25], np.float32) + np.float32(0.02) * normal
    if name.endswith("gamma"):
        return np.float32(0.3) + np.float32(0.05) * normal
    if name.endswith("bias"):
        return np.float32(0.05) * normal
    if name.endswith("weight"):
        if len(shape) > 1:
            return normal / np.float32(np.sqrt(np.prod(shape[1:])))
        return np.float32(1) + np.float32(0.1) * normal
    return np.float32(0.5) * normal


def weights(sizes: Sizes, seed: int) -> Iterator[tuple[str, Float]]:
    """Yield name and value of every tensor of a network."""
    from vggt_ros.reconstruction.vggt.checkpoints.weights import tensor_shapes

    for name, shape in tensor_shapes(sizes).items():
        yield name, weight(name, shape, seed)


def agree_on_one_camera(state: Mapping[str, Any], width: int, height: int) -> None:
    """Let generated weights predict one camera with square pixels for images of this size.

    They predict another field of view for every image otherwise, and such windows are refused. The last layer of the
    camera head is changed in place, in a state dict or in named parameters, as arrays or tensors.
    """
    for row, side in ((7, height), (8, width)):
        state["camera_head.pose_branch.fc2.weight"][row] = 0
        # The focal length is the width; the four iterations of the camera head add up.
        state["camera_head.pose_branch.fc2.bias"][row] = 2 * math.atan(side / 2 / width) / 4


def images(frames: int, height: int, width: int) -> Float:
    """Return RGB images (frames, 3, height, width) in [0, 1]: smooth waves that move from frame to frame."""
    f = np.arange(frames)[:, None, None, None]
    c = np.arange(3)[None, :, None, None]
    y = np.arange(height)[None, None, :, None]
    x = np.arange(width)[None, None, None, :]
    return (0.5 + 0.25 * np.sin(0.071 * x + 0.9 * f + 0.5 * c)
            + 0.25 * np.cos(0.053 * y - 0.4 * f + 1.3 * c + 0.011 * x)).astype(np.float32)
