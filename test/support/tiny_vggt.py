"""A tiny VGGT with generated weights: in a folder as for `vggt.weights`, and windows of its images."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from vggt_ros.config import Config
from vggt_ros.reconstruction.vggt.checkpoints import rule
from vggt_ros.reconstruction.vggt.model.network import Network
from vggt_ros.reconstruction.vggt.model.sizes import Sizes
from vggt_ros.reconstruction.vggt.reconstructor import Vggt
from vggt_ros.windows.keyframe import Keyframe, Window

CPU = torch.device("cpu")
TINY = Sizes(embed_dim=64, heads=2, depth=4, encoder_depth=2, taps=(0, 1, 2, 3), features=16,
             out_channels=(8, 16, 24, 32), track_channels=(8, 16, 24, 32), camera_heads=2)


@cache
def tiny_state() -> dict[str, torch.Tensor]:
    """Return its weights, for which all images of `tiny_window` have one camera."""
    state = {name: torch.from_numpy(value) for name, value in rule.weights(TINY, 0)}
    rule.agree_on_one_camera(state, 70, 56)
    return state


def tiny_network() -> Network:
    """Return the network with these weights, in float32."""
    with torch.device("meta"):
        network = Network(TINY)
    network.load_state_dict(tiny_state(), assign=True)
    return network.requires_grad_(False)


def write_weights(folder: Path, state: dict[str, torch.Tensor] | None = None) -> Path:
    """Write sizes and weights as in a repository of the hub; return the file of the weights."""
    folder.mkdir(exist_ok=True, parents=True)
    TINY.save(folder / "config.json")
    save_file(tiny_state() if state is None else state, folder / "model.safetensors")
    return folder / "model.safetensors"


def tiny_window(ids: tuple[int, ...] = (0, 1, 2), height: int = 56, width: int = 70) -> Window:
    """Return a window of generated images."""
    images = (255 * rule.images(max(ids) + 1, height, width)).astype(np.uint8).transpose(0, 2, 3, 1)
    k = np.array([[60.0, 0, width / 2], [0, 60, height / 2], [0, 0, 1]])
    return Window(0, tuple(Keyframe(i, i, np.ascontiguousarray(images[i]), k) for i in ids))


def tiny_config(folder: Path, **changes: object) -> Config:
    """Return settings for the weights in a folder, on the CPU; `changes` of the group `vggt`."""
    return Config().replace({"vggt.weights": str(folder), "vggt.device": "cpu",
                             **{f"vggt.{name}": value for name, value in changes.items()}})


def tiny_vggt(folder: Path, **changes: object) -> Vggt:
    """Return the reconstructor with the weights in a folder."""
    vggt = Vggt(tiny_config(folder, **changes))
    vggt.load()
    return vggt
