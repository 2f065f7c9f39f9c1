"""VGGT as a reconstructor: the images of a window in, its geometry out."""

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
from vggt_ros.reconstruction.joining import join, smaller, split
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
        most: keyframes that are solved at once; fewer than a window holds once memory has run out.

    """

    name = "vggt"

    def __init__(self, config: Config) -> None:
        """Choose the device; `load` loads the weights.

        Raises:
            WeightsError: `vggt.device` is `cuda` and there is none.

        """
        settings = self.settings = config.vggt
        self._config = config
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise weights.WeightsError("vggt.device: cuda is asked for, but torch finds no GPU; set auto or cpu")
        device = torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")
        self.inference = Inference(settings, device)
        self.most = 10**6
        self._room = math.inf
        self._split = ""
        self._focals: list[np.ndarray] = []

    @property
    def facts(self) -> dict[str, str]:
        """What runs where, for the status."""
        run = self.inference
        name = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else \
            f"CPU, {torch.get_num_threads()} threads"
        types = [str(kind).removeprefix("torch.") for kind in (run.compute, run.storage)]
        return {"model": self.settings.weights, "device": name,
                "type": types[0] if types[0] == types[1] else f"{types[0]}, weights kept in {types[1]}",
                "compiled": run.compiled, **({"split": self._split} if self._split else {})}

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height), multiples of 14, of the images that it wants from this camera."""
        return network_size(camera, self.settings.width)

    def load(self, progress: Callable[[str], None] = lambda text: None, download: bool = True) -> None:
        """Load the weights, over the network if need be, and warm up.

        Args:
            progress: told how far it is.
            download: False: only weights that are on disk.

        Raises:
            WeightsError: they cannot be had, do not fit, or need more memory than there is.

        """
        progress("looking for the weights")
        path = weights.find(self.settings.weights, download, progress=progress)
        run, count = self.inference, self._config.windows.size
        camera = Camera.assumed(640, 480, 60.0)  # the real one is not known yet
        width, height = self.image_size(camera)
        sizes = weights.sizes_beside(path.parent / "config.json")
        free = memory.free(run.device, self.settings.memory)
        needed = {frames: memory.window_bytes(sizes, frames, height, width, run.storage, run.compute, run.outputs,
                                              run.chunk) for frames in (2, count)}
        if needed[2] > free:
            raise weights.WeightsError(
                f"vggt: two images of {width}x{height} need about {needed[2] / 1e9:.1f} GB on {run.device}, a window "
                f"of {count} about {needed[count] / 1e9:.1f} GB; {free / 1e9:.1f} GB are free: set vggt.width lower")
        self.adopt(weights.load(path, run.device, run.storage, run.outputs,
                                lambda done: progress(f"loading the weights, {100 * done:.0f} %")))
        progress("warming up")
        self.prepare(width, height)

    def adopt(self, network: Network) -> None:
        """Take a network that is on the device already."""
        self.inference.adopt(network)
        if self.settings.memory > 0:
            self._room = self.settings.memory * 1e9 - sum(p.nbytes for p in network.parameters())

    def prepare(self, width: int, height: int) -> None:
        """Warm up for windows of images of this size."""
        windows = self._config.windows
        self._heed_forecast(windows.size, height, width)
        try:
            self.inference.warm_up(width, height, min(windows.size, self.most), min(windows.overlap, self.most - 1))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not memory.is_short(error):
                raise
            log.warning("vggt: no memory to warm up with %d images of %dx%d", windows.size, width, height)
        self.inference.forget()

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window, in parts if memory asks for it.

        Raises:
            ReconstructionRefused: too few images, images of a wrong size, not enough memory for two of them, or
                nonsense came out.

        """
        shapes = {keyframe.image.shape for keyframe in window.keyframes}
        height, width = window.keyframes[0].image.shape[:2]
        if len(window.keyframes) < 2 or len(shapes) > 1 or height % 14 or width % 14:
            raise ReconstructionRefused(f"vggt wants two or more images of one size in multiples of 14, not "
                                        f"{len(window.keyframes)} of {sorted(shapes)}")
        self._heed_forecast(len(window.keyframes), height, width)
        while True:
            parts = split(window, self._config.windows.overlap, self.most)
            try:
                solved = [self._solve(part) for part in parts]
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not memory.is_short(error):
                    raise
                reason = str(error).splitlines()[0]
            # Not above: what raises holds on to its tensors until the exception is gone.
            self.inference.forget()
            self._split_smaller(len(parts[0].keyframes), f"memory ran out on {self.inference.device} ({reason})")
        whole = join(solved, self._config.alignment)
        total = {name: sum(part.report[name] for part in solved) for name in ("seconds", "reused_tokens", "tflop")}
        return replace(whole, report={
            **whole.report, **total, "tflop_per_s": total["tflop"] / total["seconds"],
            "peak_memory_mb": max(part.report["peak_memory_mb"] for part in solved), "parts": float(len(parts))})

    def _solve(self, window: Window) -> WindowGeometry:
        """Solve a window, or a part of one, at once; raises as torch does when memory runs out."""
        run, (height, width) = self.inference, window.keyframes[0].image.shape[:2]
        if run.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(run.device)
        start = time.perf_counter()
        output, reused = run.run(window.keyframes)
        seconds = time.perf_counter() - start
        tflop = memory.work(run.network.sizes, len(window.keyframes), height, width, reused)
        peak = torch.cuda.max_memory_allocated(run.device) if run.device.type == "cuda" else \
            1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report = {"seconds": seconds, "reused_tokens": float(reused), "tflop": tflop, "peak_memory_mb": peak / 1e6}
        return decode(output, window, self._focal(output.pose_enc, height, width), report)

    def _heed_forecast(self, count: int, height: int, width: int) -> None:
        """Lower `most` to what fits into memory by the memory model; raises ReconstructionRefused below 2."""
        run = self.inference
        room = min(self._room, memory.unused(run.device))
        count = min(count, self.most)
        while count > 1 and (needed := memory.activation_bytes(run.network.sizes, count, height, width,
                                                               run.compute.itemsize, run.outputs, run.chunk)) > room:
            self._split_smaller(count, f"{count} images of {width}x{height} need about {needed / 1e9:.2f} GB beside "
                                f"the weights, there are {room / 1e9:.2f}")
            count = self.most

    def _split_smaller(self, count: int, reason: str) -> None:
        """Lower `most` below `count`, and say why; raises ReconstructionRefused if there is no smaller window."""
        if count <= 2:
            raise ReconstructionRefused(f"{reason}, with two images; set vggt.width lower")
        self.most = smaller(count, self._config.windows.overlap)
        self._split = f"windows of more than {self.most} images: {reason}"
        log.warning("vggt: %s; windows of more than %d images are split", reason, self.most)

    def _focal(self, pose_enc: np.ndarray, height: int, width: int) -> tuple[float, float]:
        """Return the median focal lengths (fx, fy) over all windows so far: a camera has one, not one a window."""
        matrices = predicted_intrinsics(pose_enc, height, width)
        self._focals = [*self._focals[-255:], np.median(matrices[:, [0, 1], [0, 1]], axis=0)]
        fx, fy = np.exp(np.median(np.log(self._focals), axis=0))
        if not (math.isfinite(fx) and math.isfinite(fy)):
            raise ReconstructionRefused("the network predicts no field of view")
        return float(fx), float(fy)
