"""Pseudo-random weights, reproducible from names, shapes and a seed: for tests and measurements."""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping

import torch
from torch import Tensor

from vggt_ros.reconstruction.da3.network import build
from vggt_ros.reconstruction.da3.sizes import Sizes
from vggt_ros.reconstruction.vggt.checkpoints.rule import weight


def weights(sizes: Sizes, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of every tensor of a network."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in build(sizes).state_dict().items()}
    for name, shape in shapes.items():
        value = torch.from_numpy(weight(name, shape, seed))
        if name.startswith("cam_dec.fc_"):  # small motions, with quaternions near the identity
            value = value * 0.1 + (torch.tensor([0.0, 0.0, 0.0, 1.0]) if name == "cam_dec.fc_qvec.bias" else 0.0)
        yield name, value


def agree_on_one_camera(state: MutableMapping[str, Tensor], width: int, height: int) -> None:
    """Let generated weights predict one camera with square pixels, whose focal length is the width, for such images.

    They predict another field of view for every image otherwise, and such windows are refused.
    """
    state["cam_dec.fc_fov.0.weight"] = torch.zeros_like(state["cam_dec.fc_fov.0.weight"])
    state["cam_dec.fc_fov.0.bias"] = torch.tensor([2 * math.atan(side / 2 / width) for side in (height, width)])
