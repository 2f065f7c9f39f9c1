"""Sections of `benchmark gpu_visit` about speed: attention kernels, latencies of windows, every option on and off."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 (the convention of torch)

from vggt_ros.benchmarks.gpu.visit import Report, Visit
from vggt_ros.benchmarks.gpu.visit_network import (
    device_of,
    inference_of,
    keyframes_of,
    load_network,
    median_seconds,
    sizes_of,
)
from vggt_ros.reconstruction.vggt.comparison.parity import relative_error
from vggt_ros.reconstruction.vggt.comparison.reference import run_reference
from vggt_ros.reconstruction.vggt.device_errors import first_line
from vggt_ros.reconstruction.vggt.runtime.compilation import FusedPlacement
from vggt_ros.reconstruction.vggt.runtime.images import to_tensor
from vggt_ros.reconstruction.vggt.runtime.inference import Inference, choose_dtypes
from vggt_ros.reconstruction.vggt.runtime.memory import window_tflop


def kernels(visit: Visit, report: Report) -> None:
    """Report the speed of each attention kernel of torch, for the tokens of a whole window."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    sizes, device = sizes_of(visit), device_of(visit)
    kind = choose_dtypes("auto", device)[1]
    tokens = visit.frames * (1 + sizes.registers + visit.height * visit.width // sizes.patch**2)
    shape = (1, sizes.heads, tokens, sizes.embed_dim // sizes.heads)
    q, k, v = (torch.randn(shape, device=device, dtype=kind) for _ in range(3))
    tflop = 4e-12 * sizes.embed_dim * tokens**2

    def attend() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    seconds = median_seconds(visit, attend)
    report("default", {"tokens": tokens, "seconds": seconds, "tflop_per_s": tflop / seconds})
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
        try:
            with sdpa_kernel(getattr(SDPBackend, name)):
                seconds = median_seconds(visit, attend)
            report(name, {"seconds": seconds, "tflop_per_s": tflop / seconds})
        except (RuntimeError, AttributeError) as error:
            report(name, {"not available": str(error).splitlines()[0]})


def latency(visit: Visit, report: Report) -> None:
    """Report the time of windows of several sizes, first and later ones, and of the reference mode."""
    device, sizes = device_of(visit), sizes_of(visit)
    cuda = device.type == "cuda"
    reference = _reference_row(visit)
    report("reference", reference)
    inference = inference_of(visit)
    computed = str(inference.compute).removeprefix("torch.")
    for count in visit.counts:
        shared = min(visit.overlap, count - 1)
        for reused in dict.fromkeys((0, shared)):
            step = [0]

            def run(count: int = count, reused: int = reused, step: list[int] = step) -> None:
                step[0] += count - reused
                inference.run(keyframes_of(visit, step[0], count))

            inference.clear_cache()
            if cuda:
                torch.cuda.reset_peak_memory_stats(device)
            seconds = median_seconds(visit, run)
            row: dict[str, Any] = {
                "window": f"{count} x {visit.width}x{visit.height}, {reused or 'none'} shared", "mode": "ours",
                "computed": computed, "seconds": seconds,
                "peak_bytes": torch.cuda.max_memory_allocated(device) if cuda else 0,
                "tflop_per_s": window_tflop(sizes, count, visit.height, visit.width, reused) / seconds}
            if count == visit.frames:
                row["time_ratio"] = seconds / reference["seconds"]
                if cuda:
                    row["memory_ratio"] = row["peak_bytes"] / reference["peak_bytes"]
                inference.stage_seconds = {}
                run()
                row["parts"] = {stage: round(value, 5) for stage, value in inference.stage_seconds.items()}
                inference.stage_seconds = None
            report(f"{count} images, {reused} reused", row)


def _reference_row(visit: Visit) -> dict[str, Any]:
    """Return the figures of the published way to run the network, autocast over float32 weights."""
    device = device_of(visit)
    kind = choose_dtypes("auto", device)[1]
    network = load_network(visit, torch.float32, ("cameras", "depth", "points"))
    pixels = [keyframe.image for keyframe in keyframes_of(visit, 0, visit.frames)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = median_seconds(visit, lambda: run_reference(network, to_tensor(pixels, device), kind))
    return {"window": f"{visit.frames} x {visit.width}x{visit.height}, none shared", "mode": "reference",
            "computed": str(kind).removeprefix("torch."), "seconds": seconds,
            "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0}


def options(visit: Visit, report: Report) -> None:
    """Report what each option changes: time of a later window, and depth and poses against the reference in float32.

    One option at a time is set otherwise than by default; compilation, which takes longest, comes last.
    """
    device = device_of(visit)
    cuda = device.type == "cuda"
    network = load_network(visit, torch.float32, ("cameras", "depth", "points"))
    pixels = [keyframe.image for keyframe in keyframes_of(visit, 0, visit.frames)]
    exact = {name: value.float().cpu().numpy()
             for name, value in run_reference(network, to_tensor(pixels, device), torch.float32).items()}
    del network

    def row(name: str, change: Callable[[Inference], None] | None = None, compiled: bool = False,
            **settings: object) -> None:
        figures: dict[str, Any] = {}
        try:
            inference = inference_of(visit, **settings)
            if change is not None:
                change(inference)
            began = time.perf_counter()
            inference.warm_up(visit.width, visit.height, visit.frames, visit.overlap, compile_blocks=compiled)
            figures["prepared_s"], step = time.perf_counter() - began, [0]

            def run() -> None:
                step[0] += visit.frames - visit.overlap
                inference.run(keyframes_of(visit, step[0], visit.frames))

            figures["seconds"] = median_seconds(visit, run)
            inference.clear_cache()
            output, _ = inference.run(keyframes_of(visit, 0, visit.frames))
            figures["depth_change"] = _change(output.depth, exact["depth"])
            figures["pose_change"] = relative_error(output.pose_enc, exact["pose_enc"])
            if compiled:
                figures["compiled"] = inference.blocks.state
            inference.close()
        except Exception as error:  # of one option: the others are still told
            figures["failed"] = f"{type(error).__name__}: {first_line(error)}"
        report(name, figures)

    row("default")
    row("reuse_tokens false", reuse_tokens=False)
    row("dtype float32", dtype="float32")
    row("dense_dtype float16", dense_dtype="float16")
    for chunk in (1, 8):
        row(f"{chunk} frames at a time in the dense heads", partial(_set_chunk, chunk))
    if not cuda:
        report("compile true", {"left out": "a CPU takes minutes to compile"})
        return
    for kind in ("float16", "bfloat16"):
        row(f"dtype {kind}", dtype=kind)
    row("weights of the dense head in the usual layout", _contiguous_head)
    row("the first algorithm of cuDNN for every convolution", _first_algorithm)
    row("normalization and rotary embedding in one kernel",
        lambda inference: FusedPlacement().install(inference.network))
    row("compile true", compiled=True, compile="true")


def _set_chunk(chunk: int, inference: Inference) -> None:
    inference.network.chunk = chunk


def _first_algorithm(inference: Inference) -> None:
    inference.try_convolutions = False


def _contiguous_head(inference: Inference) -> None:
    for value in inference.network.depth_head.parameters():
        value.data = value.data.contiguous()


def _change(depth: np.ndarray, exact: np.ndarray) -> float:
    """Return the median relative difference of two depth maps, where both are known."""
    both = np.isfinite(depth) & np.isfinite(exact)
    return float(np.median(np.abs(depth[both] / exact[both] - 1))) if both.any() else float("inf")
