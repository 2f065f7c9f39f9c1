"""Inference on one window at a time, without synchronization before the final copy to the host."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the convention of torch)

from vggt_ros.config import VggtConfig
from vggt_ros.reconstruction.vggt.decoding import FilteredOutput
from vggt_ros.reconstruction.vggt.filtering import filter_points
from vggt_ros.reconstruction.vggt.images import to_host, to_tensor
from vggt_ros.reconstruction.vggt.network import Network
from vggt_ros.windows.keyframe import Keyframe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
log = logging.getLogger(__name__)


class Inference:
    """Runs the network, and caches the encoder tokens of the keyframes that the next window shares.

    Attributes:
        device: the device that it runs on.
        storage, compute: types in which the matrices of the aggregator are stored and multiplied.
        outputs: the outputs that are computed, as in `Network.decode`.
        extra_outputs: points or tracks of the newest window on the device, if `vggt.outputs` includes them.
        stage_seconds: seconds of each stage of the newest window; set to a dictionary to measure, which synchronizes.
        compiled: `yes`, `no`, or the reason why not although `vggt.compile` is set.

    """

    def __init__(self, settings: VggtConfig, device: torch.device) -> None:
        """Choose the types; `set_network` has to follow."""
        self.settings, self.device = settings, device
        self.storage, self.compute = choose_dtypes(settings.dtype, device)
        self.outputs = ("cameras", *settings.outputs.split(","))
        self.extra_outputs: dict[str, Tensor] = {}
        self.stage_seconds: dict[str, float] | None = None
        self.compiled = "no"
        self._compiled_aggregator: Callable[..., Any] | None = None
        self._warm_shapes: set[tuple[int, ...]] = set()
        self._last_stage_end = 0.0
        self._tokens: dict[int, Tensor] = {}

    @property
    def chunk(self) -> int:
        """Number of frames that the dense heads process at a time."""
        return 4 if self.device.type == "cuda" else 1

    def set_network(self, network: Network) -> None:
        """Use a network that is on the device already."""
        self.network = network
        network.chunk = self.chunk
        if self.settings.compile:
            self.compiled, self._compiled_aggregator = "yes", torch.compile(network.aggregator, dynamic=False)

    def warm_up(self, width: int, height: int, frames: int, overlap: int) -> None:
        """Run a first and a later window of this shape on blank images, so that the first real window is not slower.

        On a CPU this is skipped unless the network is compiled. Only shapes that were warmed up run compiled.
        """
        if (self.device.type != "cuda" and self._compiled_aggregator is None) \
                or (frames, height, width) in self._warm_shapes:
            return
        self._warm_shapes.add((frames, height, width))
        blank = np.zeros((height, width, 3), np.uint8)
        for first in (0, frames - overlap):
            self.run([Keyframe(-1 - first - i, 0, blank, np.eye(3)) for i in range(frames)])
        self.clear_cache()

    def clear_cache(self) -> None:
        """Free the cached tokens, and the unused memory that the allocator of the device has reserved."""
        self._tokens, self.extra_outputs = {}, {}
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def run(self, keyframes: Sequence[Keyframe]) -> tuple[FilteredOutput, int]:
        """Return the network output for keyframes of one size, and the number of keyframes whose tokens were cached."""
        network, size = self.network, keyframes[0].image.shape[:2]
        self._record_stage("")
        tokens = {keyframe.id: self._tokens[keyframe.id] for keyframe in keyframes if keyframe.id in self._tokens
                 and self.settings.reuse_tokens}
        new = [keyframe for keyframe in keyframes if keyframe.id not in tokens]
        # On a CPU one image at a time: a batch is not faster, and the tokens then do not depend on its other images.
        batch = len(new) if self.device.type == "cuda" else 1
        with self._autocast():
            for first in range(0, len(new), max(batch, 1)):
                part = new[first:first + batch]
                encoded = network.aggregator.encode(to_tensor([keyframe.image for keyframe in part], self.device))
                tokens.update(zip((keyframe.id for keyframe in part), encoded))
            self._tokens = tokens
            self._record_stage("encoder")
            patches = torch.stack([tokens[keyframe.id] for keyframe in keyframes])
            layers = {layer: x.float() for layer, x in self._aggregate_tokens(patches, size).items()}
        self._record_stage("aggregator")
        # The heads stay in float32 (TensorFloat-32 in GPU convolutions): bfloat16 would triple the depth error.
        result = network.decode(layers, size, ("cameras",))
        self._record_stage("cameras")
        dense = [output for output in self.outputs if output != "cameras"]
        result |= network.decode(layers, size, dense, self._queries(size))
        self._record_stage("dense heads")
        descriptors = F.normalize(patches.float().mean(1), dim=-1)
        self.extra_outputs = {name: value for name, value in result.items()
                              if name.startswith(("world_points", "track"))}
        depth, ranks = filter_points(result["depth"], result["depth_conf"], self.settings)
        output = FilteredOutput(*to_host(result["pose_enc"], depth, ranks, descriptors))
        self._record_stage("filter and copy")
        return output, len(keyframes) - len(new)

    def _aggregate_tokens(self, patches: Tensor, size: Sequence[int]) -> dict[int, Tensor]:
        """Return what `Network.aggregate` does; compiled if configured, possible and warmed up for this shape."""
        if self._compiled_aggregator is None or (len(patches), *size) not in self._warm_shapes:
            return self.network.aggregate(patches, size)
        try:
            return self.network.aggregate(patches, size, self._compiled_aggregator)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compilers fail in many ways: not installed, or this device is not supported
            reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
            self.compiled, self._compiled_aggregator = f"no, because of {type(error).__name__}: {reason}", None
            log.warning("vggt.compile: the network runs uncompiled, because compilation failed with %s: %s",
                        type(error).__name__, reason)
        return self.network.aggregate(patches, size)

    def _record_stage(self, stage: str) -> None:
        """Record the seconds since the end of the previous stage as those of `stage`, if stages are measured."""
        if self.stage_seconds is None:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if stage:
            self.stage_seconds[stage] = now - self._last_stage_end
        self._last_stage_end = now

    def _autocast(self) -> AbstractContextManager[None]:
        """Return a context in which matrices are multiplied in the type `compute`, everything else in float32."""
        reduced = self.compute != torch.float32
        return torch.autocast(self.device.type, self.compute if reduced else torch.bfloat16, enabled=reduced,
                              cache_enabled=False)

    def _queries(self, size: Sequence[int]) -> Tensor | None:
        """Return a grid of points (n, 2) in the first image to track, None if tracks are not computed."""
        if "tracks" not in self.outputs:
            return None
        y, x = torch.meshgrid(torch.arange(16.0, size[0], 32, device=self.device),
                              torch.arange(16.0, size[1], 32, device=self.device), indexing="ij")
        return torch.stack((x.flatten(), y.flatten()), dim=-1)


def choose_dtypes(wanted: str, device: torch.device) -> tuple[torch.dtype, torch.dtype]:
    """Return the types for storage and for computation; a CPU without bfloat16 instructions computes in float32."""
    if device.type == "cuda":
        auto = torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
        return DTYPES.get(wanted, auto), DTYPES.get(wanted, auto)
    storage = DTYPES.get(wanted, torch.float32)
    native = storage == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if storage != torch.float32 and not native:
        log.warning("this CPU does not support %s multiplication: weights are stored in it, computation is in float32",
                    storage)
    return storage, storage if native else torch.float32
