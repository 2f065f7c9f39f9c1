"""`Vggt`: the reconstructor that runs the network, from the images of a window to its geometry."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.reconstruction.joining import join, part_size, split
from vggt_ros.reconstruction.vggt import memory, weights
from vggt_ros.reconstruction.vggt.decoding import decode, predicted_intrinsics
from vggt_ros.reconstruction.vggt.images import network_size
from vggt_ros.reconstruction.vggt.inference import Inference
from vggt_ros.reconstruction.vggt.network import Network
from vggt_ros.windows.keyframe import Window

log = logging.getLogger(__name__)


class Vggt:
    """Runs the network on windows; a window that does not fit into memory is solved in parts.

    Attributes:
        name: "vggt".
        inference: the network on its device.
        max_keyframes: keyframes that are solved at once; it is reduced below the window size if memory is short.

    """

    name = "vggt"

    def __init__(self, config: Config) -> None:
        """Choose the device; `load` loads the weights.

        Raises:
            WeightsError: `vggt.device` is `cuda` and there is no GPU.

        """
        settings = self.settings = config.vggt
        self._config = config
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise weights.WeightsError("vggt.device: cuda is configured, but torch finds no GPU; set auto or cpu")
        device = torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")
        self.inference = Inference(settings, device)
        self.max_keyframes = 10**6
        self._activation_budget = math.inf
        self._split_reason = ""
        self._focals: list[np.ndarray] = []

    @property
    def status_values(self) -> dict[str, str]:
        """Model, device and types, for the status message."""
        inference = self.inference
        name = torch.cuda.get_device_name(inference.device) if inference.device.type == "cuda" else \
            f"CPU, {torch.get_num_threads()} threads"
        types = [str(kind).removeprefix("torch.") for kind in (inference.compute, inference.storage)]
        return {"model": self.settings.weights, "device": name,
                "type": types[0] if types[0] == types[1] else f"{types[0]}, weights stored in {types[1]}",
                "compiled": inference.compiled, **({"split": self._split_reason} if self._split_reason else {})}

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height), multiples of 14, to which images of this camera must be rectified."""
        return network_size(camera, self.settings.width)

    def load(self, progress: Callable[[str], None] = lambda text: None, download: bool = True) -> None:
        """Load the weights, downloading them if necessary, and warm up.

        Args:
            progress: called with the loading progress.
            download: whether weights may be downloaded; False uses only weights that are on disk.

        Raises:
            WeightsError: the weights are not available, do not fit the network, or need more memory than is available.

        """
        progress("looking for the weights")
        path = weights.find(self.settings.weights, download, progress=progress)
        inference, count = self.inference, self._config.windows.size
        camera = Camera.assumed(640, 480, 60.0)  # a placeholder: the real camera is not known yet
        width, height = self.image_size(camera)
        sizes = weights.read_sizes(path.parent / "config.json")
        free = memory.available_bytes(inference.device, self.settings.memory)
        needed = {frames: memory.window_bytes(sizes, frames, height, width, inference.storage, inference.compute,
                                              inference.outputs, inference.chunk) for frames in (2, count)}
        if needed[2] > free:
            raise weights.WeightsError(
                f"vggt: two images of {width}x{height} need about {needed[2] / 1e9:.1f} GB on {inference.device}, a "
                f"window of {count} about {needed[count] / 1e9:.1f} GB; {free / 1e9:.1f} GB are free: lower vggt.width")
        self.set_network(weights.load(path, inference.device, inference.storage, inference.outputs,
                                      lambda done: progress(f"loading the weights, {100 * done:.0f} %")))
        progress("warming up")
        self.prepare(width, height)

    def set_network(self, network: Network) -> None:
        """Use a network that is on the device already."""
        self.inference.set_network(network)
        if self.settings.memory > 0:
            self._activation_budget = self.settings.memory * 1e9 - sum(p.nbytes for p in network.parameters())

    def prepare(self, width: int, height: int) -> None:
        """Warm up for windows with images of this size."""
        windows = self._config.windows
        self._limit_to_memory(windows.size, height, width)
        try:
            self.inference.warm_up(width, height, min(windows.size, self.max_keyframes),
                                   min(windows.overlap, self.max_keyframes - 1))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not memory.is_out_of_memory(error):
                raise
            log.warning("vggt: not enough memory to warm up with %d images of %dx%d", windows.size, width, height)
        self.inference.clear_cache()

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window, in parts if it does not fit into memory.

        Raises:
            ReconstructionRefused: too few images, images of a wrong size, not enough memory for two of them, invalid
                network output, or inconsistent parts.

        """
        shapes = {keyframe.image.shape for keyframe in window.keyframes}
        height, width = window.keyframes[0].image.shape[:2]
        if len(window.keyframes) < 2 or len(shapes) > 1 or height % 14 or width % 14:
            raise ReconstructionRefused(f"vggt needs two or more images of one size in multiples of 14, not "
                                        f"{len(window.keyframes)} of {sorted(shapes)}")
        self._limit_to_memory(len(window.keyframes), height, width)
        while True:
            parts = split(window, self._config.windows.overlap, self.max_keyframes)
            try:
                solved = [self._solve(part) for part in parts]
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not memory.is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
            # Not in the handler: the exception references the tensors until it is deleted.
            self.inference.clear_cache()
            self._reduce_window_size(len(parts[0].keyframes), f"memory ran out on {self.inference.device} ({reason})")
        whole = join(solved, self._config.alignment)
        total = {name: sum(part.report[name] for part in solved) for name in ("seconds", "reused_tokens", "tflop")}
        return replace(whole, report={
            **whole.report, **total, "tflop_per_s": total["tflop"] / total["seconds"],
            "peak_memory_mb": max(part.report["peak_memory_mb"] for part in solved), "parts": float(len(parts))})

    def _solve(self, window: Window) -> WindowGeometry:
        """Solve a window, or a part of one, in one run; raises the error of torch if memory runs out."""
        inference, (height, width) = self.inference, window.keyframes[0].image.shape[:2]
        if inference.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(inference.device)
        start = time.perf_counter()
        output, reused = inference.run(window.keyframes)
        seconds = time.perf_counter() - start
        tflop = memory.window_tflop(inference.network.sizes, len(window.keyframes), height, width, reused)
        peak = torch.cuda.max_memory_allocated(inference.device) if inference.device.type == "cuda" else \
            1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report = {"seconds": seconds, "reused_tokens": float(reused), "tflop": tflop, "peak_memory_mb": peak / 1e6}
        return decode(output, window, self._focal(output.pose_enc, height, width), report)

    def _limit_to_memory(self, count: int, height: int, width: int) -> None:
        """Reduce `max_keyframes` until a window fits by the memory model; raises ReconstructionRefused below 2."""
        inference = self.inference
        budget = min(self._activation_budget, memory.free_gpu_bytes(inference.device))
        count = min(count, self.max_keyframes)
        while count > 1 and (needed := memory.activation_bytes(
                inference.network.sizes, count, height, width, inference.compute.itemsize, inference.outputs,
                inference.chunk)) > budget:
            self._reduce_window_size(count, f"{count} images of {width}x{height} need about {needed / 1e9:.2f} GB in "
                                     f"addition to the weights, {budget / 1e9:.2f} are available")
            count = self.max_keyframes

    def _reduce_window_size(self, count: int, reason: str) -> None:
        """Reduce `max_keyframes` below `count` and log the reason; raises ReconstructionRefused if `count` is 2."""
        if count <= 2:
            raise ReconstructionRefused(f"{reason}, with two images; lower vggt.width")
        self.max_keyframes = part_size(count, self._config.windows.overlap)
        self._split_reason = f"windows of more than {self.max_keyframes} images: {reason}"
        log.warning("vggt: %s; windows of more than %d images are split", reason, self.max_keyframes)

    def _focal(self, pose_enc: np.ndarray, height: int, width: int) -> tuple[float, float]:
        """Return the median focal lengths (fx, fy) over the last 256 windows: the camera has constant intrinsics."""
        matrices = predicted_intrinsics(pose_enc, height, width)
        self._focals = [*self._focals[-255:], np.median(matrices[:, [0, 1], [0, 1]], axis=0)]
        fx, fy = np.exp(np.median(np.log(self._focals), axis=0))
        if not (math.isfinite(fx) and math.isfinite(fy)):
            raise ReconstructionRefused("the network predicts no field of view")
        return float(fx), float(fy)
