"""The network on its device, run window by window without a wait before the last copy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from vggt_ros.config import VggtConfig
from vggt_ros.reconstruction.vggt.decoding import FilteredWindow
from vggt_ros.reconstruction.vggt.filtering import filter_points
from vggt_ros.reconstruction.vggt.images import to_host, to_tensor
from vggt_ros.reconstruction.vggt.network import Network
from vggt_ros.windows.keyframe import Keyframe

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
log = logging.getLogger(__name__)


class Inference:
    """Runs a network, and keeps the encoder's tokens of keyframes that come again.

    Attributes:
        device: where it runs.
        storage, compute: types of the aggregator's matrices and of what is computed with them.
        outputs: what is computed, as in `Network.decode`.
        extras: points or tracks of the newest window, where `vggt.outputs` asks for them, on the device.
        parts: seconds of each part of the newest window; measured, which costs synchronization, if it is a dictionary.
        compiled: `no`, `yes`, or why not although `vggt.compile` is set.

    """

    def __init__(self, settings: VggtConfig, device: torch.device) -> None:
        """Choose the types; `adopt` gives it a network."""
        self.settings, self.device = settings, device
        self.storage, self.compute = types(settings.dtype, device)
        self.outputs = ("cameras", *settings.outputs.split(","))
        self.extras: dict[str, Tensor] = {}
        self.parts: dict[str, float] | None = None
        self.compiled = "no"
        self._aggregate: Callable[..., Any] | None = None
        self._shapes: set[tuple[int, ...]] = set()
        self._last_mark = 0.0
        self._tokens: dict[int, Tensor] = {}

    @property
    def chunk(self) -> int:
        """Frames that the dense heads take at a time."""
        return 4 if self.device.type == "cuda" else 1

    def adopt(self, network: Network) -> None:
        """Take a network that is on the device already."""
        self.network = network
        network.chunk = self.chunk
        if self.settings.compile:
            self.compiled, self._aggregate = "yes", torch.compile(network.aggregator, dynamic=False)

    def warm_up(self, width: int, height: int, frames: int, overlap: int) -> None:
        """Run a first and a later window of this shape on blank images, so that the first real one takes no longer.

        On a CPU there is nothing to warm up, unless the network is compiled. Only shapes of here run compiled.
        """
        if (self.device.type != "cuda" and self._aggregate is None) or (frames, height, width) in self._shapes:
            return
        self._shapes.add((frames, height, width))
        blank = np.zeros((height, width, 3), np.uint8)
        for first in (0, frames - overlap):
            self.run([Keyframe(-1 - first - i, 0, blank, np.eye(3)) for i in range(frames)])
        self.forget()

    def forget(self) -> None:
        """Let go of kept tokens and of memory that the device's allocator holds back."""
        self._tokens, self.extras = {}, {}
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def run(self, keyframes: Sequence[Keyframe]) -> tuple[FilteredWindow, int]:
        """Return the network's output for keyframes of one size, and of how many the tokens were at hand."""
        network, size = self.network, keyframes[0].image.shape[:2]
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
            layers = {layer: x.float() for layer, x in self._aggregated(patches, size).items()}
        self._mark("aggregator")
        # The heads stay in float32 (TensorFloat-32 in a GPU's convolutions): bfloat16 there would triple depth's error.
        result = network.decode(layers, size, ("cameras",))
        self._mark("cameras")
        dense = [output for output in self.outputs if output != "cameras"]
        result |= network.decode(layers, size, dense, self._queries(size))
        self._mark("dense heads")
        descriptors = F.normalize(patches.float().mean(1), dim=-1)
        self.extras = {name: value for name, value in result.items() if name.startswith(("world_points", "track"))}
        depth, ranks = filter_points(result["depth"], result["depth_conf"], self.settings)
        output = FilteredWindow(*to_host(result["pose_enc"], depth, ranks, descriptors))
        self._mark("filter and copy")
        return output, len(keyframes) - len(new)

    def _aggregated(self, patches: Tensor, size: Sequence[int]) -> dict[int, Tensor]:
        """Return what `Network.aggregate` does, compiled where that is wanted, works and was warmed up."""
        if self._aggregate is None or (len(patches), *size) not in self._shapes:
            return self.network.aggregate(patches, size)
        try:
            return self.network.aggregate(patches, size, self._aggregate)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers fail in many ways: none at hand, or one that does not know this device
            reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
            self.compiled, self._aggregate = f"no, since {type(error).__name__}: {reason}", None
            log.warning("vggt.compile: the network runs uncompiled, since it failed with %s: %s",
                        type(error).__name__, reason)
        return self.network.aggregate(patches, size)

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

    def _autocast(self) -> AbstractContextManager[None]:
        """Return a context in which matrices are multiplied in `compute`, the rest in float32."""
        low = self.compute != torch.float32
        return torch.autocast(self.device.type, self.compute if low else torch.bfloat16, enabled=low,
                              cache_enabled=False)

    def _queries(self, size: Sequence[int]) -> Tensor | None:
        """Return a grid of points (n, 2) of the first image to be tracked, if tracks are wanted."""
        if "tracks" not in self.outputs:
            return None
        y, x = torch.meshgrid(torch.arange(16.0, size[0], 32, device=self.device),
                              torch.arange(16.0, size[1], 32, device=self.device), indexing="ij")
        return torch.stack((x.flatten(), y.flatten()), dim=-1)


def types(wanted: str, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    """Return the types for storage and for computing; a CPU that has no bfloat16 unit computes in float32."""
    if device.type == "cuda":
        auto = torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
        return TYPES.get(wanted, auto), TYPES.get(wanted, auto)
    storage = TYPES.get(wanted, torch.float32)
    native = storage == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if storage != torch.float32 and not native:
        log.warning("this CPU does not multiply %s: it is kept for storage, and computed in float32", storage)
    return storage, storage if native else torch.float32
