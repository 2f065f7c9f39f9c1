"""Whether the network can run here."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from vggt_ros.config import VggtConfig
from vggt_ros.reconstruction.vggt import weights


def missing(settings: VggtConfig, at_once: bool) -> str:
    """Return what keeps the network from running, empty if nothing does.

    `at_once` asks for a GPU and for weights on disk; without it a CPU will do, and a download.
    """
    for package in ("safetensors", "huggingface_hub"):
        if find_spec(package) is None:
            return f"{package} is not installed"
    if not at_once:
        return ""
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    try:
        weights.find(settings.weights, download=False)
    except weights.WeightsError as error:
        return str(error)
    return ""
