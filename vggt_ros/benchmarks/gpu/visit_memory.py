"""Sections of `benchmark gpu_visit` about memory: the model against the allocator, and memory that runs out."""

from __future__ import annotations

import gc

import torch

from vggt_ros.benchmarks.gpu.visit import Report, Visit
from vggt_ros.benchmarks.gpu.visit_network import device_of, inference_of, keyframes_of, reconstructor_of, sizes_of
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.vggt.reconstructor import Vggt
from vggt_ros.reconstruction.vggt.runtime import memory as model
from vggt_ros.windows.keyframe import Window


def memory(visit: Visit, report: Report) -> None:
    """Report what windows take by the count of torch's allocator, and by the model; the ratio has to be at most 1."""
    device = device_of(visit)
    if device.type != "cuda":
        report("not measured", {"reason": "torch counts allocations of a GPU only"})
        return
    for outputs, counts in (("depth", (2, *visit.counts)), ("depth,points", (visit.frames,)),
                            ("depth,tracks", (visit.frames,))):
        inference = inference_of(visit, outputs=outputs)
        for count in counts:
            inference.clear_cache()
            gc.collect()
            base = torch.cuda.memory_allocated(device)
            inference.run(keyframes_of(visit, 0, count))
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            inference.run(keyframes_of(visit, max(count - visit.overlap, 0), count))
            measured = torch.cuda.max_memory_allocated(device) - base
            reserved = torch.cuda.max_memory_reserved(device) - torch.cuda.max_memory_allocated(device)
            predicted = model.activation_bytes(sizes_of(visit), count, visit.height, visit.width, inference.mode)
            report(f"{outputs}, {count} images", {
                "measured_bytes": measured, "model_bytes": predicted, "ratio": measured / predicted,
                "reserved_beyond_bytes": reserved})
        inference.close()


def out_of_memory(visit: Visit, report: Report) -> None:
    """Report that a window is split when memory runs out, that nothing is lost then, and that more is tried later.

    On a GPU the allocator is given less than what the model sees, so that it really fails. On a CPU, where only the
    model can be short, `vggt.memory` is.
    """
    device, whole, part = device_of(visit), visit.frames, max(visit.frames // 2, 2)
    if device.type != "cuda":
        base = inference_of(visit)
        held = sum(value.nbytes for value in base.network.parameters())
        room = model.activation_bytes(sizes_of(visit), whole - 1, visit.height, visit.width, base.mode)
        vggt = reconstructor_of(visit, memory=(held + room) / 1e9)
        base.close()
    else:
        vggt = reconstructor_of(visit)
    before = 0
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        needed = [model.activation_bytes(sizes_of(visit), count, visit.height, visit.width, vggt.inference.mode)
                  for count in (part, whole)]
        total = torch.cuda.mem_get_info(device)[1]
        torch.cuda.set_per_process_memory_fraction(min((before + sum(needed) / 2) / total, 1.0), device)
    report("short", {"first": _solve(vggt, Window(0, keyframes_of(visit, 0, whole))),
                     "second": _solve(vggt, Window(1, keyframes_of(visit, whole - visit.overlap, whole))),
                     "most": vggt.limit.most, "reason": vggt.limit.reason})
    if device.type == "cuda":
        vggt.inference.clear_cache()
        report("leaked", {"leaked_bytes": torch.cuda.memory_allocated(device) - before})
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        report("memory is back", {"window": _solve(vggt, Window(2, keyframes_of(visit, 100, whole))),
                                  "most": vggt.limit.most})


def _solve(vggt: Vggt, window: Window) -> str:
    """Return in how many parts a window was solved.

    Generated weights may contradict themselves so much that solved parts cannot be joined.
    """
    try:
        return f"{vggt.reconstruct(window).report['parts']:.0f} parts"
    except ReconstructionRefused as refusal:
        return f"refused: {refusal}"
