"""Inference on one window at a time, without synchronization before the final copy to the host."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the convention of torch)

from vggt_ros.reconstruction.vggt.model.network import Network
from vggt_ros.reconstruction.vggt.model.tables import clear_tables
from vggt_ros.reconstruction.vggt.output.decoding import FilteredOutput
from vggt_ros.reconstruction.vggt.output.filtering import filter_points
from vggt_ros.reconstruction.vggt.runtime.attention_kernel import PLAIN, attention_kernel
from vggt_ros.reconstruction.vggt.runtime.compilation import CompiledBlocks, FusedPlacement
from vggt_ros.reconstruction.vggt.runtime.images import to_host, to_tensor
from vggt_ros.reconstruction.vggt.runtime.memory import QUERY_STEP, Mode
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.windows.keyframe import Keyframe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_COMPILED_CHANGE = 0.05
"""Largest relative difference of the depth by which compiled blocks may differ from uncompiled ones."""
log = logging.getLogger(__name__)


class Inference:
    """Runs the network, and caches the encoder tokens of the keyframes that the next window shares.

    Attributes:
        device: the device that it runs on.
        storage, compute: types in which the matrices of the aggregator are stored and multiplied.
        outputs: the outputs that are computed, as in `Network.decode`.
        attention: the kernel of the attention, see `attention_kernel`; `unknown` before a network is set.
        blocks: runs the blocks, compiled if configured.
        keep: number of the newest keyframes whose tokens are kept also if a window does not contain them.
        try_convolutions: whether cuDNN tries its algorithms for each new shape, on a GPU.
        extra_outputs: points or tracks of the newest window on the device, if `vggt.outputs` includes them.
        stage_seconds: seconds of each stage of the newest window; set to a dictionary to measure, which synchronizes.

    """

    network: Network

    def __init__(self, settings: VggtConfig, device: torch.device, keep: int = 0) -> None:
        """Choose the types; `set_network` has to follow."""
        self.settings, self.device, self.keep = settings, device, keep
        self.storage, self.compute = choose_dtypes(settings.dtype, device)
        self.outputs = ("cameras", *settings.outputs.split(","))
        self.attention = "unknown"
        self.blocks = CompiledBlocks(settings.compile, device)
        self.try_convolutions = device.type == "cuda"
        self.extra_outputs: dict[str, Tensor] = {}
        self.stage_seconds: dict[str, float] | None = None
        self._warm_shapes: set[tuple[object, ...]] = set()
        self._last_stage_end = 0.0
        self._tokens: dict[int, Tensor] = {}

    @property
    def chunk(self) -> int:
        """Number of frames that the dense heads process at a time."""
        return 4 if self.device.type == "cuda" else 1

    @property
    def mode(self) -> Mode:
        """How the network runs, for the memory model."""
        return Mode(self.compute.itemsize, self.outputs, self.chunk, self.attention == PLAIN)

    def set_network(self, network: Network) -> None:
        """Use a network that is on the device already."""
        self.network = network
        network.chunk, network.dense_dtype = self.chunk, DTYPES[self.settings.dense_dtype]
        self.attention = attention_kernel(network.sizes, self.compute, self.device)
        if self.device.type == "cuda":  # the layout in which the tokens come, so that nothing has to be converted
            for head in ("depth_head", "point_head"):
                if hasattr(network, head):
                    getattr(network, head).to(memory_format=torch.channels_last)

    def warm_up(self, width: int, height: int, frames: int, overlap: int, compile_blocks: bool = True,
                progress: Callable[[str], None] = lambda text: None) -> None:
        """Run a first and a later window of this shape, so that the first real window is not slower.

        On a CPU this is skipped unless blocks are compiled.

        Args:
            width, height, frames, overlap: of the windows; those of other shapes never run compiled.
            compile_blocks: whether to compile for this shape, if configured.
            progress: called before each part that takes long; an exception that it raises ends the preparation.

        """
        compiles = compile_blocks and self.blocks.enabled
        shape = (frames, height, width, compiles)
        if (self.device.type != "cuda" and not compiles) or shape in self._warm_shapes:
            return
        first, later = (_warm_up_keyframes(start, frames, height, width) for start in (0, frames - overlap))
        self.run(first)
        plain, _ = self.run(later)
        if compiles:
            self.clear_cache()
            self.run(first)
            with self.blocks.recording(progress):
                fast, _ = self.run(later)
            self._judge_compiled(plain, fast, f"{frames} images of {width}x{height}")
            if self.blocks.enabled and frames > 2:  # windows of other shapes run uncompiled, but for one kernel
                progress("compiling the network, for other windows")
                FusedPlacement().install(self.network)
                self.run(later[1:])
        self._warm_shapes.add(shape)
        self.clear_cache()

    def _judge_compiled(self, plain: FilteredOutput, fast: FilteredOutput, shape: str) -> None:
        """Keep compiled blocks only if they compute the same as uncompiled ones."""
        if not self.blocks.enabled:
            return
        both = np.isfinite(plain.depth) & np.isfinite(fast.depth)
        change = float(np.median(np.abs(fast.depth[both] / plain.depth[both] - 1))) if both.any() else np.inf
        if not change <= MAX_COMPILED_CHANGE:
            self.blocks.disable(f"a depth that differs by {100 * change:.0f} % from that of the uncompiled network")
            return
        self.blocks.state = f"yes, for {shape}"

    def clear_cache(self) -> None:
        """Free the cached tokens, and the unused memory that the allocator of the device has reserved."""
        self._tokens, self.extra_outputs = {}, {}
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Free everything on the device; the network cannot be used any more."""
        if self.blocks.enabled:
            torch.compiler.reset()
        self.blocks = CompiledBlocks("false", self.device)
        if hasattr(self, "network"):
            del self.network
        clear_tables()
        gc.collect()
        self.clear_cache()

    @torch.inference_mode()
    def run(self, keyframes: Sequence[Keyframe]) -> tuple[FilteredOutput, int]:
        """Return the network output for keyframes of one size, and the number of keyframes whose tokens were cached."""
        network, size = self.network, keyframes[0].image.shape[:2]
        self._record_stage("")
        ids = {keyframe.id for keyframe in keyframes}
        tokens = {keyframe: value for keyframe, value in self._tokens.items() if keyframe in ids
                  and self.settings.reuse_tokens}
        new = [keyframe for keyframe in keyframes if keyframe.id not in tokens]
        # On a CPU one image at a time: a batch is not faster, and the tokens then do not depend on its other images.
        batch = len(new) if self.device.type == "cuda" else 1
        with self.autocast():
            for first in range(0, len(new), max(batch, 1)):
                part = new[first:first + batch]
                encoded = network.aggregator.encode(to_tensor([keyframe.image for keyframe in part], self.device),
                                                    self.blocks)
                tokens.update(zip((keyframe.id for keyframe in part), encoded))
            self._keep_tokens(tokens)
            self._record_stage("encoder")
            patches = torch.stack([tokens[keyframe.id] for keyframe in keyframes])
            layers = {layer: x.float() for layer, x in network.aggregate(patches, size, self.blocks).items()}
        self._record_stage("aggregator")
        # The heads stay in float32 (TensorFloat-32 in GPU convolutions): bfloat16 would triple the depth error.
        result = network.decode(layers, size, ("cameras",))
        self._record_stage("cameras")
        dense = [output for output in self.outputs if output != "cameras"]
        with _fastest_convolutions(self.try_convolutions):
            result |= network.decode(layers, size, dense, self._queries(size))
        self._record_stage("dense heads")
        descriptors = F.normalize(patches.float().mean(1), dim=-1)
        self.extra_outputs = {name: value for name, value in result.items()
                              if name.startswith(("world_points", "track"))}
        depth, ranks = filter_points(result["depth"], result["depth_conf"], self.settings)
        output = FilteredOutput(*to_host(result["pose_enc"], depth, ranks, descriptors))
        self._record_stage("filter and copy")
        return output, len(keyframes) - len(new)

    def _keep_tokens(self, tokens: dict[int, Tensor]) -> None:
        """Cache the tokens of a window, and those of the newest keyframes: a window around a loop has others."""
        newest = sorted({*self._tokens, *tokens})[-self.keep:] if self.keep else []
        # Copied, because tokens are views of those of all images that were encoded together.
        others = {keyframe: self._tokens[keyframe].clone() for keyframe in newest if keyframe not in tokens}
        self._tokens = {**others, **tokens}

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

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context in which matrices are multiplied in the type `compute`, everything else in float32."""
        reduced = self.compute != torch.float32
        return torch.autocast(self.device.type, self.compute if reduced else torch.bfloat16, enabled=reduced,
                              cache_enabled=False)

    def _queries(self, size: Sequence[int]) -> Tensor | None:
        """Return a grid of points (n, 2) in the first image to track, None if tracks are not computed."""
        if "tracks" not in self.outputs:
            return None
        y, x = torch.meshgrid(*(torch.arange(QUERY_STEP / 2, edge, QUERY_STEP, device=self.device) for edge in size),
                              indexing="ij")
        return torch.stack((x.flatten(), y.flatten()), dim=-1)


@contextmanager
def _fastest_convolutions(wanted: bool) -> Iterator[None]:
    """Let cuDNN try its algorithms for each new shape of a convolution and use the fastest one."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _warm_up_keyframes(first: int, count: int, height: int, width: int) -> list[Keyframe]:
    """Return keyframes with textured images, whose depth is not constant; negative ids, no real keyframe has them."""
    rows, columns = np.indices((height, width))
    images = [(128 + 60 * np.sin(0.05 * columns + i)[..., None] + 60 * np.cos(0.07 * rows - i)[..., None]
               * np.ones(3)).astype(np.uint8) for i in range(first, first + count)]
    return [Keyframe(-1 - first - i, 0, image, np.eye(3)) for i, image in enumerate(images)]


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
