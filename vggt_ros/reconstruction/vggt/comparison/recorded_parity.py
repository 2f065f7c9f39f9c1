"""The network with real weights against a recorded run of the published code on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the convention of torch)

from vggt_ros.config import Config
from vggt_ros.reconstruction.vggt.checkpoints import weight_files, weights
from vggt_ros.reconstruction.vggt.comparison.padding import to_square
from vggt_ros.reconstruction.vggt.comparison.recorded_run import SIDE, SPREAD, RecordedRun, differences
from vggt_ros.reconstruction.vggt.device_errors import DeviceUnsuitable
from vggt_ros.reconstruction.vggt.output.decoding import camera_from_world, predicted_intrinsics
from vggt_ros.reconstruction.vggt.runtime import memory
from vggt_ros.reconstruction.vggt.runtime.availability import unsupported_reason
from vggt_ros.reconstruction.vggt.runtime.inference import Inference
from vggt_ros.reconstruction.vggt.settings import VggtConfig

_LOADED_SIDE = 1024
"""Side of the square to which the published demo resizes images before it resizes them to `SIDE`, pixels."""


def prepare_images(paths: Sequence[Path]) -> Tensor:
    """Return RGB images (S, 3, SIDE, SIDE) in [0, 1], prepared as the published `demo_colmap.py` does.

    They are padded to a square with black, resized to 1024 pixels bicubically and rounded to bytes, then resized to
    `SIDE` bilinearly.

    Raises:
        OSError: an image cannot be read.

    """
    prepared = []
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            raise OSError(f"{path} is not an image")
        square = to_square(np.asarray(image[..., ::-1], np.uint8))
        pixels = torch.from_numpy(square).permute(2, 0, 1)[None].float()
        # With antialiasing this is the bicubic filter of Pillow; that of OpenCV has another kernel.
        pixels = F.interpolate(pixels, (_LOADED_SIDE, _LOADED_SIDE), mode="bicubic", antialias=True)
        pixels = pixels.round().clamp(0, 255) / 255
        prepared.append(F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False)[0])
    return torch.stack(prepared)


def run_on_images(inference: Inference, images: Tensor, recorded: RecordedRun) -> RecordedRun:
    """Return what the network says, in its own mode, with depth at the samples of a recorded run."""
    network, size = inference.network, images.shape[2:]
    with torch.inference_mode():
        with inference.autocast():
            tokens = torch.cat([network.aggregator.encode(image[None].to(inference.device)) for image in images])
            layers = {layer: x.float() for layer, x in network.aggregate(tokens, size).items()}
        result = network.decode(layers, size, ("cameras", "depth"))
    pose_enc, depth = result["pose_enc"].cpu().numpy(), result["depth"].cpu().numpy()
    sampled = depth[recorded.frame, recorded.pixel[:, 1], recorded.pixel[:, 0]].astype(np.float64)
    return RecordedRun(recorded.names, camera_from_world(pose_enc)[:, :3], predicted_intrinsics(pose_enc, *size),
                       recorded.frame, recorded.pixel, sampled)


def compare_with_recorded(folder: Path, source: str, device: str = "auto",
                          dtype: str = "auto") -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the spread of the recorded runs, and how the network differs from each of them.

    The spread is that of two runs in the folder, or of those of the kitchen if it has only one.

    Args:
        folder: with `images/` and `run_*.npz`.
        source: the weights, as `vggt.weights`.
        device, dtype: as `vggt.device` and `vggt.dtype`.

    Raises:
        OSError, ValueError, KeyError: the folder cannot be read.
        WeightsError: the weights are not available, or do not fit the network.
        DeviceUnsuitable: torch does not support the GPU, or all images at once do not fit into its memory.

    """
    files = sorted(folder.glob("run_*.npz"))
    if not files:
        raise FileNotFoundError(f"{folder} contains no run_*.npz")
    runs = {file.stem: RecordedRun.load(file) for file in files}
    inference = Inference(Config().replace({"vggt.device": device, "vggt.dtype": dtype}).of(VggtConfig),
                          torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"))
    path = weight_files.find(source)
    sizes = weights.read_sizes(path.parent / "config.json")
    if reason := unsupported_reason(inference.device):
        raise DeviceUnsuitable(reason)
    count = max(len(run.names) for run in runs.values())
    needed, free = memory.window_bytes(sizes, count, SIDE, SIDE, inference.storage, inference.mode), \
        memory.free_bytes(inference.device)
    if needed > free:
        raise DeviceUnsuitable(f"{count} images at once need about {needed / 1e9:.1f} GB on {inference.device}, "
                               f"{free / 1e9:.1f} GB are free")
    inference.set_network(weights.load(path, inference.device, inference.storage, inference.outputs))
    found = {}
    for name, run in runs.items():
        images = prepare_images([folder / "images" / image for image in run.names])
        found[name] = differences(run_on_images(inference, images, run), run)
    both = list(runs.values())
    return (differences(*both[:2]) if len(both) > 1 else SPREAD), found
