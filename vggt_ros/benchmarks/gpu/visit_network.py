"""Networks, windows and clocks for the sections of `benchmark gpu_visit`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vggt_ros.benchmarks.gpu.visit import Visit
from vggt_ros.config import Config
from vggt_ros.reconstruction.vggt.checkpoints import rule, weights
from vggt_ros.reconstruction.vggt.comparison.parity import pseudo_random_network
from vggt_ros.reconstruction.vggt.model.network import Network
from vggt_ros.reconstruction.vggt.model.sizes import PUBLISHED, SMALL, Sizes
from vggt_ros.reconstruction.vggt.reconstructor import Vggt
from vggt_ros.reconstruction.vggt.runtime.inference import Inference
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.windows.keyframe import Keyframe


def sizes_of(visit: Visit) -> Sizes:
    """Return the sizes of the network."""
    return {"full": PUBLISHED, "small": SMALL}[visit.network]


def weights_file(visit: Visit) -> Path:
    """Return the file that the section `load` writes."""
    return Path(visit.folder) / "model.safetensors"


def device_of(visit: Visit) -> torch.device:
    """Return the device that `vggt.device` selects; raises RuntimeError if it is `cuda` and there is none."""
    cuda = torch.cuda.is_available()
    if visit.device == "cuda" and not cuda:
        raise RuntimeError("torch finds no GPU")
    return torch.device("cuda" if cuda and visit.device != "cpu" else "cpu")


def config_of(visit: Visit, **changes: object) -> Config:
    """Return the settings of the node with the weights of the visit, uncompiled; `changes` of the group `vggt`.

    Generated weights reconstruct nothing, so parts of a window are joined whatever they are.
    """
    return Config().replace({
        "vggt.weights": visit.folder, "vggt.device": device_of(visit).type, "vggt.compile": "false",
        "vggt.width": visit.width, "windows.size": visit.frames, "windows.overlap": visit.overlap,
        "alignment.max_rotation": 45.0, "alignment.max_translation": 1.0, "alignment.max_scale": 1.0,
        **{f"vggt.{name}": value for name, value in changes.items()}})


def load_network(visit: Visit, storage: torch.dtype, outputs: tuple[str, ...]) -> Network:
    """Return the network with the weights that `load` has written; if it has failed, with the same ones, made again."""
    file, device = weights_file(visit), device_of(visit)
    if file.is_file():
        return weights.load(file, device, storage, outputs)
    network = pseudo_random_network(sizes_of(visit), 0)
    weights.drop_heads(network, outputs)
    for name, value in network.named_parameters():
        value.data = value.data.to(device, weights.storage_dtype(name, tuple(value.shape), storage))
    return network


def inference_of(visit: Visit, **changes: object) -> Inference:
    """Return the network ready to run; `changes` of the settings in the group `vggt`."""
    inference = Inference(config_of(visit, **changes).of(VggtConfig), device_of(visit), visit.overlap)
    inference.set_network(load_network(visit, inference.storage, inference.outputs))
    return inference


def reconstructor_of(visit: Visit, **changes: object) -> Vggt:
    """Return the reconstructor as the node has it; with generated weights if `load` has left no file."""
    vggt = Vggt(config_of(visit, **changes))
    if weights_file(visit).is_file():
        vggt.load(download=False)
    else:
        vggt.set_network(load_network(visit, vggt.inference.storage, vggt.inference.outputs))
    rule.agree_on_one_camera(dict(vggt.inference.network.named_parameters()), visit.width, visit.height)
    return vggt


def keyframes_of(visit: Visit, first: int, count: int) -> tuple[Keyframe, ...]:
    """Return keyframes with the ids from `first` on; an id always has the same image."""
    pixels = np.rint(255 * rule.images(8, visit.height, visit.width)).astype(np.uint8).transpose(0, 2, 3, 1)
    k = np.array([[visit.width, 0, visit.width / 2], [0, visit.width, visit.height / 2], [0, 0, 1.0]])
    return tuple(Keyframe(i, i, np.ascontiguousarray(pixels[i % 8]), k) for i in range(first, first + count))


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(visit: Visit, call: Callable[[], Any]) -> float:
    """Return the median time of `visit.repeat` calls, after one or two that do not count."""
    device, seconds, warm = device_of(visit), [], min(visit.repeat, 2)
    for _ in range(warm + visit.repeat):
        synchronize(device)
        began = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[warm:]))


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context in which matrices are multiplied in `dtype`."""
    reduced = dtype != torch.float32
    return torch.autocast(device.type, dtype if reduced else torch.bfloat16, enabled=reduced, cache_enabled=False)
