"""Check whether the network can run on this machine."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from vggt_ros.config import VggtConfig
from vggt_ros.reconstruction.vggt import weights


def unavailable_reason(settings: VggtConfig, at_once: bool) -> str:
    """Return the reason why the network cannot run, empty if it can.

    `at_once` requires a GPU and weights on disk; without it, a CPU and a download are acceptable.
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
