"""One measurement of the network's speed and memory, in a separate process."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

import numpy as np
import torch

from vggt_ros.config import Config
from vggt_ros.reconstruction.vggt.checkpoints import rule
from vggt_ros.reconstruction.vggt.checkpoints.weights import drop_heads, storage_dtype, tensor_shapes, unused_prefixes
from vggt_ros.reconstruction.vggt.comparison.reference import run_reference
from vggt_ros.reconstruction.vggt.model.network import Network
from vggt_ros.reconstruction.vggt.model.sizes import PUBLISHED, SMALL, Sizes
from vggt_ros.reconstruction.vggt.runtime.images import to_tensor
from vggt_ros.reconstruction.vggt.runtime.inference import DTYPES, Inference
from vggt_ros.reconstruction.vggt.runtime.memory import window_bytes, window_tflop
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.windows.keyframe import Keyframe


def quick_network(sizes: Sizes, device: torch.device, storage: torch.dtype, outputs: tuple[str, ...]) -> Network:
    """Return a network with quickly generated weights of the right scale: speed does not depend on their values."""
    noise = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0))
    unused = unused_prefixes(outputs)
    with torch.device("meta"):
        network = Network(sizes)
    state = {}
    for name, shape in tensor_shapes(sizes).items():
        if not name.startswith(unused):
            value = torch.empty(shape, dtype=storage_dtype(name, shape, storage), device=device)
            scale = float(np.prod(shape[1:])) ** -0.5 if len(shape) > 1 else 0.1
            flat = value.view(-1)
            for first in range(0, flat.numel(), noise.numel()):
                flat[first:first + noise.numel()] = scale * noise[:flat.numel() - first]
            state[name] = value
    drop_heads(network, outputs)
    network.load_state_dict(state, strict=True, assign=True)
    return network.requires_grad_(False)


def measure(mode: str, sizes: Sizes, frames: int, overlap: int, size: tuple[int, int], dtype: str, repeat: int,
            compile_: bool = False, same_kernels: bool = False) -> dict[str, object]:
    """Return latencies (seconds, the first window separately), peak memory and the share of each part.

    Args:
        mode: `ours` or `reference`.
        sizes: of the network.
        frames, overlap: of a window.
        size: width and height of the images.
        dtype: as `vggt.dtype`.
        repeat: windows that are timed after the first; with 0 it is the first that counts.
        compile_: as `vggt.compile`.
        same_kernels: multiply in `dtype` even where this machine is faster without, as the reference mode does.

    """
    width, height = size
    config = Config().replace({"vggt.dtype": dtype, "vggt.compile": str(compile_).lower()})
    inference = Inference(config.of(VggtConfig), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    pixels = (255 * rule.images(frames, height, width)).astype(np.uint8).transpose(0, 2, 3, 1)
    ours = mode == "ours"
    network = quick_network(sizes, inference.device, inference.storage if ours else torch.float32,
                            inference.outputs if ours else ("cameras", "depth", "points"))
    if ours:
        inference.compute = inference.storage if same_kernels else inference.compute
        inference.set_network(network)
        inference.warm_up(width, height, frames, overlap)
    seconds = []
    for run in range(repeat + 1):
        # A keyframe keeps its image while the window moves on by frames - overlap.
        ids = [run * (frames - overlap) + s for s in range(frames)]
        keyframes = tuple(Keyframe(i, i, np.ascontiguousarray(pixels[i % frames]), np.eye(3)) for i in ids)
        start = time.perf_counter()
        if ours:
            inference.run(keyframes)
        else:
            wanted = DTYPES[dtype] if dtype != "auto" else inference.compute
            result = run_reference(network, to_tensor([keyframe.image for keyframe in keyframes], inference.device),
                                   wanted)
            result = {name: value.cpu() for name, value in result.items()}
        seconds.append(time.perf_counter() - start)
    timed = seconds[1:] or seconds
    median, cuda = float(np.median(timed)), inference.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures: dict[str, object] = {
        "mode": mode, "frames": frames, "overlap": overlap, "width": width, "height": height, "dtype": dtype,
        "compute": str(inference.compute if ours else wanted).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
        "first_s": seconds[0], "median_s": median, "p95_s": float(np.quantile(timed, 0.95)), "peak_bytes": peak,
        "tflop_per_s": window_tflop(sizes, frames, height, width, overlap if ours else 0) / median}
    if ours:
        figures["model_bytes"] = window_bytes(sizes, frames, height, width, inference.storage, inference.mode)
    if ours and repeat > 1:
        inference.stage_seconds = {}
        inference.run(tuple(Keyframe(10**6 + i, i, pixels[i], np.eye(3)) for i in range(frames)))
        figures["parts"] = inference.stage_seconds
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Print one measurement as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("mode", choices=("ours", "reference"))
    parser.add_argument("--network", choices=("small", "full"), default="full")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(518, 392))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--same-kernels", action="store_true")
    options = parser.parse_args(arguments)
    sizes = {"small": SMALL, "full": PUBLISHED}[options.network]
    print(json.dumps(measure(options.mode, sizes, options.frames, options.overlap, tuple(options.size), options.dtype,
                             options.repeat, options.compile, options.same_kernels)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
