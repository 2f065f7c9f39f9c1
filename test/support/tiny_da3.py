"""A tiny Depth Anything 3 with generated weights: in a folder as for `da3.weights`, and windows of its images."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from vggt_ros.config import Config
from vggt_ros.reconstruction.da3 import rule
from vggt_ros.reconstruction.da3.reconstructor import Da3
from vggt_ros.reconstruction.da3.sizes import Sizes

TINY = Sizes(64, 2, 6, 2, (2, 3, 4, 5), 16, (8, 16, 24, 32))


@cache
def tiny_state(width: int = 70, height: int = 56) -> dict[str, torch.Tensor]:
    """Return its weights, for which all images of this size have one camera."""
    state = dict(rule.weights(TINY))
    rule.agree_on_one_camera(state, width, height)
    return state


def write_da3(folder: Path, state: dict[str, torch.Tensor] | None = None, prefix: str = "model.") -> Path:
    """Write sizes and weights as in a repository of the hub; return the file of the weights."""
    folder.mkdir(exist_ok=True, parents=True)
    TINY.save(folder / "config.json")
    save_file({f"{prefix}{name}": value for name, value in (tiny_state() if state is None else state).items()},
              folder / "model.safetensors")
    return folder / "model.safetensors"


def da3_config(folder: Path, **changes: object) -> Config:
    """Return settings for the weights in a folder, on the CPU; `changes` of the group `da3`."""
    return Config().replace({"reconstructor": "da3", "da3.weights": str(folder), "da3.device": "cpu", "refine": "off",
                             **{f"da3.{name}": value for name, value in changes.items()}})


def tiny_da3(folder: Path, **changes: object) -> Da3:
    """Return the reconstructor with the weights in a folder."""
    made = Da3(da3_config(folder, **changes))
    made.load()
    return made
