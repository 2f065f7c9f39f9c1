"""VGGT as a reconstructor: the images of a window in, its geometry out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from vggt_ros.camera import Camera
from vggt_ros.config import Config
from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.reconstruction.vggt import memory, weights
from vggt_ros.reconstruction.vggt.decoding import RawWindow, decode, predicted_intrinsics
from vggt_ros.reconstruction.vggt.images import network_size, to_tensor
from vggt_ros.reconstruction.vggt.network import Network
from vggt_ros.windows import Keyframe, Window

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
log = logging.getLogger(__name__)


class Vggt:
    """Runs the network on windows and keeps the encoder's tokens of keyframes that come again.

    Attributes:
        name: "vggt".
        device: where it runs.
        storage, compute: types of the aggregator's matrices and of what is computed with them.
        extras: points or tracks of the newest window, where `vggt.outputs` asks for them, on the device.
        parts: seconds of each part of the newest window; measured, which costs synchronization, if it is a dictionary.

    """

    name = "vggt"

    def __init__(self, config: Config) -> None:
        """Choose device and types; the weights are loaded by `load`, or by the first window.

        Raises:
            WeightsError: `vggt.device` is `cuda` and there is none.

        """
        settings = self.settings = config.vggt
        self.window_size = config.windows.size
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise weights.WeightsError("vggt.device: cuda is asked for, but torch finds no GPU; set auto or cpu")
        self.device = torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")
        self.storage, self.compute = self._types()
        self.outputs = ("cameras", *settings.outputs.split(","))
        self.extras: dict[str, Tensor] = {}
        self.parts: dict[str, float] | None = None
        self._network: Network | None = None
        self._last_mark = 0.0
        self._tokens: dict[int, Tensor] = {}
        self._focals: list[np.ndarray] = []

    def image_size(self, camera: Camera) -> tuple[int, int]:
        """Return (width, height), multiples of 14, of the images that it wants from this camera."""
        return network_size(camera, self.settings.width)

    def load(self, progress: Callable[[float], None] | None = None, download: bool = True) -> None:
        """Load the weights, from the network if need be.

        Args:
            progress: told the fraction done.
            download: False: only weights that are on disk.

        Raises:
            WeightsError: they cannot be had, do not fit, or need more memory than the GPU has.

        """
        self.adopt(self._fitted(weights.find(self.settings.weights, download), progress))

    def adopt(self, network: Network) -> None:
        """Take a network that is on the device already."""
        self._network = network
        self._network.chunk = 4 if self.device.type == "cuda" else 1
        if self.settings.compile:
            try:
                network.aggregator.compile(dynamic=False)
            except RuntimeError as error:
                log.warning("vggt.compile: not compiled, since %s", error)

    def reconstruct(self, window: Window) -> WindowGeometry:
        """Solve a window.

        Raises:
            ReconstructionRefused: too few images, images of a wrong size, not enough memory, or nonsense came out.
            WeightsError: the weights cannot be loaded.

        """
        if self._network is None:
            self.load()
        shapes = {keyframe.image.shape for keyframe in window.keyframes}
        height, width = window.keyframes[0].image.shape[:2]
        if len(window.keyframes) < 2 or len(shapes) > 1 or height % 14 or width % 14:
            raise ReconstructionRefused(f"vggt wants two or more images of one size in multiples of 14, not "
                                        f"{len(window.keyframes)} of {sorted(shapes)}")
        start = time.perf_counter()
        try:
            raw, reused = self.infer(window.keyframes)
        except torch.OutOfMemoryError as error:
            self._tokens.clear()
            torch.cuda.empty_cache()
            raise ReconstructionRefused(f"out of memory on {self.device} with {len(window.keyframes)} images of "
                                        f"{width}x{height}: set windows.size or vggt.width lower ({error})") from error
        seconds = time.perf_counter() - start
        assert self._network is not None
        tflop = memory.work(self._network.sizes, len(window.keyframes), height, width, reused)
        report = {"seconds": seconds, "reused_tokens": float(reused), "tflop": tflop, "tflop_per_s": tflop / seconds}
        if self.device.type == "cuda":
            report["peak_memory_mb"] = torch.cuda.max_memory_allocated(self.device) / 1e6
        return decode(raw, window, self.settings, self._focal(raw.pose_enc, height, width), report)

    @torch.inference_mode()
    def infer(self, keyframes: tuple[Keyframe, ...]) -> tuple[RawWindow, int]:
        """Return the network's raw output for keyframes of one size, and of how many the tokens were at hand."""
        network = self._network
        assert network is not None
        size = keyframes[0].image.shape[:2]
        self._mark("")
        known = {keyframe.id: self._tokens[keyframe.id] for keyframe in keyframes if keyframe.id in self._tokens
                 and self.settings.reuse_tokens}
        new = [keyframe for keyframe in keyframes if keyframe.id not in known]
        # One image at a time on a CPU, where a batch gains nothing: the tokens then do not depend on their neighbors.
        batch = len(new) if self.device.type == "cuda" else 1
        with self._autocast():
            for first in range(0, len(new), max(batch, 1)):
                part = new[first:first + batch]
                encoded = network.aggregator.encode(to_tensor([keyframe.image for keyframe in part], self.device))
                known.update(zip((keyframe.id for keyframe in part), encoded))
            self._tokens = known
            self._mark("encoder")
            patches = torch.stack([known[keyframe.id] for keyframe in keyframes])
            layers = {layer: x.float() for layer, x in network.aggregate(patches, size).items()}
        self._mark("aggregator")
        # The heads stay in float32 (TensorFloat-32 in a GPU's convolutions): bfloat16 there would triple depth's error.
        result = network.decode(layers, size, ("cameras",))
        self._mark("cameras")
        dense = [output for output in self.outputs if output != "cameras"]
        result |= network.decode(layers, size, dense, self._queries(size))
        self._mark("dense heads")
        descriptors = F.normalize(patches.float().mean(1), dim=-1)
        self.extras = {name: value for name, value in result.items() if name.startswith(("world_points", "track"))}
        wanted = [result["pose_enc"], result["depth"], result["depth_conf"], descriptors]
        return RawWindow(*(value.float().cpu().numpy() for value in wanted)), len(keyframes) - len(new)

    def _mark(self, part: str) -> None:
        """Note the seconds since the last mark as those of `part`, if parts are wanted."""
        if self.parts is None:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if part:
            self.parts[part] = now - self._last_mark
        self._last_mark = now

    def _types(self) -> tuple[torch.dtype, torch.dtype]:
        """Return the types for storage and for computing; a CPU that has no bfloat16 unit computes in float32."""
        if self.device.type == "cuda":
            auto = torch.bfloat16 if torch.cuda.get_device_capability(self.device)[0] >= 8 else torch.float16
            wanted = TYPES.get(self.settings.dtype, auto)
            return wanted, wanted
        wanted = TYPES.get(self.settings.dtype, torch.float32)
        native = wanted == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if wanted != torch.float32 and not native:
            log.warning("this CPU does not multiply %s: it is kept for storage, and computed in float32", wanted)
        return wanted, wanted if native else torch.float32

    def _autocast(self) -> AbstractContextManager[None]:
        """Return a context in which matrices are multiplied in `compute`, the rest in float32."""
        low = self.compute != torch.float32
        return torch.autocast(self.device.type, self.compute if low else torch.bfloat16, enabled=low,
                              cache_enabled=False)

    def _fitted(self, path: Path, progress: Callable[[float], None] | None) -> Network:
        """Return the loaded network if a window will fit into the GPU's memory; raises WeightsError."""
        if self.device.type == "cuda":
            sizes = weights.sizes_beside(path.parent / "config.json")
            side = self.settings.width
            needed = memory.window_bytes(sizes, self.window_size, side * 3 // 4, side, self.storage,
                                         self.compute, self.outputs)
            free = torch.cuda.mem_get_info(self.device)[0]
            if needed > free:
                raise weights.WeightsError(f"vggt: a window of {self.window_size} images of width {side} needs about "
                                           f"{needed / 1e9:.1f} GB on the GPU, {free / 1e9:.1f} GB are free; set "
                                           "windows.size or vggt.width lower")
        return weights.load(path, self.device, self.storage, self.outputs, progress)

    def _queries(self, size: tuple[int, ...]) -> Tensor | None:
        """Return a grid of points (n, 2) of the first image to be tracked, if tracks are wanted."""
        if "tracks" not in self.outputs:
            return None
        y, x = torch.meshgrid(torch.arange(16.0, size[0], 32), torch.arange(16.0, size[1], 32), indexing="ij")
        return torch.stack((x.flatten(), y.flatten()), dim=-1).to(self.device)

    def _focal(self, pose_enc: np.ndarray, height: int, width: int) -> tuple[float, float]:
        """Return the median focal lengths (fx, fy) over all windows so far: a camera has one, not one a window."""
        matrices = predicted_intrinsics(pose_enc, height, width)
        self._focals = [*self._focals[-255:], np.median(matrices[:, [0, 1], [0, 1]], axis=0)]
        fx, fy = np.exp(np.median(np.log(self._focals), axis=0))
        if not (math.isfinite(fx) and math.isfinite(fy)):
            raise ReconstructionRefused("the network predicts no field of view")
        return float(fx), float(fy)
