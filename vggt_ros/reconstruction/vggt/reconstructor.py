"""`Vggt`: the reconstructor that runs the network, from the images of a window to its geometry."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.reconstruction.joining import join
from vggt_ros.reconstruction.splitting import Memory, WindowSplitter
from vggt_ros.reconstruction.vggt.checkpoints import weight_files, weights
from vggt_ros.reconstruction.vggt.checkpoints.tensor_file import release_page_cache
from vggt_ros.reconstruction.vggt.device_errors import (
    DeviceUnsuitable,
    device_problem,
    first_line,
    is_out_of_memory,
    lost_context,
)
from vggt_ros.reconstruction.vggt.model.image_size import network_size
from vggt_ros.reconstruction.vggt.model.network import Network
from vggt_ros.reconstruction.vggt.model.track_head import MIN_IMAGE
from vggt_ros.reconstruction.vggt.output.decoding import decode, predicted_intrinsics
from vggt_ros.reconstruction.vggt.runtime import memory
from vggt_ros.reconstruction.vggt.runtime.attention_kernel import PLAIN, plain_attention_warning
from vggt_ros.reconstruction.vggt.runtime.availability import check_device, unavailable_reason
from vggt_ros.reconstruction.vggt.runtime.inference import Inference
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.reconstruction.window_limit import WindowLimit
from vggt_ros.windows.keyframe import Window

log = logging.getLogger(__name__)


class Vggt:
    """Runs the network on windows; a window that does not fit into memory is solved in parts.

    Attributes:
        name: "vggt".
        inference: the network on its device.
        splitter: splits windows that do not fit into memory.

    """

    name = "vggt"
    carries = "uncalibrated"

    def __init__(self, config: Config) -> None:
        """Choose the device; `load` loads the weights.

        Raises:
            DeviceUnsuitable: `vggt.device` is `cuda` and there is no GPU.

        """
        settings = self.settings = config.of(VggtConfig)
        self._config = config
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise DeviceUnsuitable("vggt.device: cuda is configured, but torch finds no GPU; set auto or cpu")
        device = torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")
        with lost_context():
            self.inference = Inference(settings, device, config.windows.overlap)
        self.splitter = WindowSplitter("vggt", config, Memory(
            self._needed_bytes, self._free_bytes, self._shortage, self.inference.clear_cache,
            "lower vggt.width"))
        self._activation_budget = math.inf
        self._focals: list[np.ndarray] = []

    @property
    def limit(self) -> WindowLimit:
        """How many keyframes are solved at once."""
        return self.splitter.limit

    @classmethod
    def unavailable_reason(cls, config: Config, at_once: bool) -> str:
        """Return the reason why the network cannot run, empty if it can; see `availability`."""
        return unavailable_reason(config.of(VggtConfig), at_once)

    @property
    def status_values(self) -> dict[str, str]:
        """Model, device, types and kernels, for the status message."""
        inference = self.inference
        name = torch.cuda.get_device_name(inference.device) if inference.device.type == "cuda" else \
            f"CPU, {torch.get_num_threads()} threads"
        types = [str(kind).removeprefix("torch.") for kind in (inference.compute, inference.storage)]
        return {"model": self.settings.weights, "device": name,
                "type": types[0] if types[0] == types[1] else f"{types[0]}, weights stored in {types[1]}",
                "attention": inference.attention, "compiled": inference.blocks.state,
                **({"split": self.limit.reason} if self.limit.reason else {})}

    @property
    def carried(self) -> tuple[Any, ...]:
        """What it takes from one window to the next; see `OptionalMembers`."""
        return (self._focals,)

    @carried.setter
    def carried(self, values: tuple[Any, ...]) -> None:
        self._focals, = values

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return the (width, height), multiples of 14, to which images of this camera must be rectified."""
        return network_size(camera, self.settings.width)

    def load(self, progress: Callable[[str], None] = lambda text: None, download: bool = True) -> None:
        """Load the weights, downloading them if necessary, and warm up.

        Args:
            progress: called with the loading progress; an exception that it raises ends the loading, and is raised.
            download: whether weights may be downloaded; False uses only weights that are on disk.

        Raises:
            WeightsError: the weights are not available, or do not fit the network.
            DeviceUnsuitable: the device has too little memory, or torch does not support it.
            ReconstructorLost: the context of the GPU is lost.

        """
        progress("looking for the weights")
        path = weight_files.find(self.settings.weights, download, progress=progress, revision=self.settings.revision)
        device = self.inference.device
        # A placeholder of the usual shape: the real camera is not known yet.
        width, height = self.image_size(Camera.assumed(640, 480, 60.0))
        problem = ""
        try:
            with lost_context():
                sizes = weights.read_sizes(path.parent / "config.json")
                check_device(self.inference, sizes, self._config, width, height)
                self.set_network(weights.load(path, device, self.inference.storage, self.inference.outputs,
                                              lambda done: progress(f"loading the weights, {100 * done:.0f} %")))
        except (RuntimeError, MemoryError) as error:
            problem = device_problem(error, device, "while the weights were loaded")
            if not problem:
                raise
        if not problem:
            if memory.is_integrated(device):
                release_page_cache(path)
            progress("warming up")
            try:
                with lost_context():
                    self._warm_up(width, height, compile_blocks=False)
            except RuntimeError as error:
                problem = device_problem(error, device, "in a first window") or \
                    f"a first window failed on {device}: {first_line(error)}"
        if problem:  # not in the handlers: an exception references tensors until it is deleted
            self.close()
            raise DeviceUnsuitable(f"vggt: {problem}")

    def set_network(self, network: Network) -> None:
        """Use a network that is on the device already."""
        self.inference.set_network(network)
        if self.settings.memory > 0:
            self._activation_budget = self.settings.memory * 1e9 - sum(p.nbytes for p in network.parameters())
        width, height = self.image_size(Camera.assumed(640, 480, 60.0))
        log.info("vggt: attention by the kernel %r of torch", self.inference.attention)
        if self.inference.attention == PLAIN:
            log.warning("vggt: %s", plain_attention_warning(network.sizes, self.inference.compute,
                                                            self._config.windows.size, height, width))

    def prepare(self, width: int, height: int, progress: Callable[[str], None] = lambda text: None) -> None:
        """Warm up, and compile if configured, for full windows with images of this size.

        `progress` is called before each step that takes long; an exception that it raises ends the preparation.

        Raises:
            ReconstructionRefused: not even two images of this size fit into memory.
            ReconstructorLost: the context of the GPU is lost.

        """
        with lost_context():
            self._warm_up(width, height, compile_blocks=True, progress=progress)

    def close(self) -> None:
        """Free the memory on the device; this object cannot be used any more."""
        try:
            self.inference.close()
        except RuntimeError as error:  # a context that is lost cannot be asked for anything
            log.warning("vggt: the memory of %s could not be freed: %s", self.inference.device, first_line(error))

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window, in parts if it does not fit into memory.

        Raises:
            ReconstructionRefused: too few images, images of a wrong size, not enough memory for two of them, invalid
                network output, or inconsistent parts.
            ReconstructorLost: the context of the GPU is lost.

        """
        shapes = {keyframe.image.shape for keyframe in window.keyframes}
        height, width = window.keyframes[0].image.shape[:2]
        if len(shapes) > 1 or height % 14 or width % 14:
            raise ReconstructionRefused(f"vggt needs images of one size in multiples of 14, not "
                                        f"{len(window.keyframes)} of {sorted(shapes)}")
        if "tracks" in self.inference.outputs and min(height, width) < MIN_IMAGE:
            raise ReconstructionRefused(f"vggt.outputs: tracks need images of {MIN_IMAGE} pixels or more on each side, "
                                        f"not {width}x{height}; raise vggt.width")
        with lost_context():
            solved = self.splitter.solve(window, self._solve)
        whole = join(solved, self._config.alignment)
        total = {name: sum(part.report[name] for part in solved) for name in ("seconds", "reused_tokens", "tflop")}
        return replace(whole, report={
            **whole.report, **total, "tflop_per_s": total["tflop"] / total["seconds"],
            "peak_memory_mb": max(part.report["peak_memory_mb"] for part in solved), "parts": float(len(solved))})

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
        calibrated = all(keyframe.calibrated for keyframe in window.keyframes)
        return decode(output, window, self._focal(output.pose_enc, height, width, calibrated), report,
                      self.settings.pose_convention)

    def _warm_up(self, width: int, height: int, compile_blocks: bool,
                 progress: Callable[[str], None] = lambda text: None) -> None:
        """Run windows of a size; lack of memory is logged, and found again by the first window."""
        windows = self._config.windows
        self.splitter.limit_to_memory(windows.size, height, width)
        frames = min(windows.size, self.limit.most)
        try:
            self.inference.warm_up(width, height, frames, min(windows.overlap, frames - 1), compile_blocks, progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            log.warning("vggt: not enough memory to warm up with %d images of %dx%d", frames, width, height)
        self.inference.clear_cache()

    def _needed_bytes(self, frames: int, height: int, width: int) -> float:
        """Return what a window takes in addition to the weights, by the memory model."""
        return memory.activation_bytes(self.inference.network.sizes, frames, height, width, self.inference.mode)

    def _free_bytes(self) -> float:
        """Return the bytes that windows may take now."""
        return min(self._activation_budget, memory.free_bytes(self.inference.device))

    def _shortage(self, error: Exception) -> str:
        """Return what is to be said of an error if memory ran out, empty if it is another error."""
        return f"memory ran out on {self.inference.device} ({first_line(error)})" if is_out_of_memory(error) else ""

    def _focal(self, pose_enc: np.ndarray, height: int, width: int, calibrated: bool) -> tuple[float, float]:
        """Return the median focal lengths (fx, fy) over the last 256 windows: the camera has constant intrinsics.

        Windows of a calibrated camera, which need none, are not among them, and depend on no window before.
        """
        matrices = predicted_intrinsics(pose_enc, height, width)
        focals = [*self._focals[-255:], np.median(matrices[:, [0, 1], [0, 1]], axis=0)]
        self._focals = self._focals if calibrated else focals
        fx, fy = np.exp(np.median(np.log(focals), axis=0))
        if not (math.isfinite(fx) and math.isfinite(fy)):
            raise ReconstructionRefused("the network predicts no field of view")
        return float(fx), float(fy)
