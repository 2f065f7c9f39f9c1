"""Check whether the network can run on this machine."""

from __future__ import annotations

import re
from importlib.util import find_spec

import torch

from vggt_ros.config import Config
from vggt_ros.reconstruction.vggt.checkpoints import weight_files
from vggt_ros.reconstruction.vggt.device_errors import DeviceUnsuitable
from vggt_ros.reconstruction.vggt.model.sizes import Sizes
from vggt_ros.reconstruction.vggt.runtime import memory
from vggt_ros.reconstruction.vggt.runtime.inference import Inference
from vggt_ros.reconstruction.vggt.settings import VggtConfig


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
        weight_files.find(settings.weights, download=False, revision=settings.revision)
    except weight_files.WeightsError as error:
        return str(error)
    return ""


def unsupported_reason(device: torch.device) -> str:
    """Return why torch does not support a GPU, empty if it does, as far as its list of architectures says."""
    if device.type != "cuda":
        return ""
    capability = torch.cuda.get_device_capability(device)
    built_for = torch.cuda.get_arch_list()
    if not built_for or supports(built_for, capability):
        return ""
    return (f"torch {torch.__version__} is built for {', '.join(built_for)}, not for this GPU of compute capability "
            f"{capability[0]}.{capability[1]}; install a build for it (docs/how-to/install.md)")


def check_device(inference: Inference, sizes: Sizes, config: Config, width: int, height: int) -> None:
    """Check, before anything is loaded, that torch supports the GPU, and that weights and two images fit.

    Raises:
        DeviceUnsuitable: they do not.

    """
    device, count = inference.device, config.windows.size
    if reason := unsupported_reason(device):
        raise DeviceUnsuitable(f"vggt: {reason}")
    free = memory.available_bytes(device, config.of(VggtConfig).memory)
    needed = {frames: memory.window_bytes(sizes, frames, height, width, inference.storage, inference.mode)
              for frames in (2, count)}
    if needed[2] > free:
        raise DeviceUnsuitable(
            f"vggt: two images of {width}x{height} need about {needed[2] / 1e9:.1f} GB on {device}, a window of "
            f"{count} about {needed[count] / 1e9:.1f} GB; {free / 1e9:.1f} GB are free: close other programs that use "
            "it, or lower vggt.width")


def supports(built_for: list[str], capability: tuple[int, int]) -> bool:
    """Return whether a build of torch for architectures such as `sm_86`, `compute_90` runs on a GPU.

    Machine code (sm) runs on the same major version from its minor version on, PTX (compute) on all that are newer.
    """
    for name in built_for:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name)
        if found is None:
            continue
        version = int(found[2]), int(found[3])
        newer = version <= capability and (found[1] == "compute" or version[0] == capability[0])
        if version == capability or (newer and not name.endswith(("a", "f"))):
            return True
    return False
