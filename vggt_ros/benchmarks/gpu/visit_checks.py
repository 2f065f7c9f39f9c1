"""Sections of `benchmark gpu_visit` about what is right: environment, loading, parity, and the node's windows."""

from __future__ import annotations

import json
import platform
import resource
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from vggt_ros.benchmarks.gpu.visit import Report, Visit
from vggt_ros.benchmarks.gpu.visit_network import (
    autocast,
    config_of,
    device_of,
    keyframes_of,
    load_network,
    reconstructor_of,
    sizes_of,
    synchronize,
    weights_file,
)
from vggt_ros.reconstruction.vggt.checkpoints import rule, weights
from vggt_ros.reconstruction.vggt.comparison.parity import queries, relative_error
from vggt_ros.reconstruction.vggt.comparison.reference import run_reference
from vggt_ros.reconstruction.vggt.model.network import OUTPUTS
from vggt_ros.reconstruction.vggt.runtime import memory
from vggt_ros.reconstruction.vggt.runtime.attention_kernel import attention_kernel
from vggt_ros.reconstruction.vggt.runtime.availability import unsupported_reason
from vggt_ros.reconstruction.vggt.runtime.compilation import compiler_problem
from vggt_ros.reconstruction.vggt.runtime.inference import choose_dtypes
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.windows.keyframe import Window


def environment(visit: Visit, report: Report) -> None:
    """Report versions, the device, and what torch has switched on."""
    device = device_of(visit)
    cuda = device.type == "cuda"
    report("device", {"name": torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads",
                      "torch": torch.__version__, "python": platform.python_version(),
                      "dtype": str(choose_dtypes("auto", device)[1]).removeprefix("torch.")})
    report("attention kernels", {str(kind).removeprefix("torch."): attention_kernel(sizes_of(visit), kind, device)
                                 for kind in (torch.float32, torch.bfloat16, torch.float16)})
    if not cuda:
        return
    free, total = torch.cuda.mem_get_info(device)
    report("GPU", {"capability": torch.cuda.get_device_capability(device), "built_for": torch.cuda.get_arch_list(),
                   "unsupported": unsupported_reason(device) or "no", "cuda": torch.version.cuda,
                   "cudnn": torch.backends.cudnn.version(), "integrated": memory.is_integrated(device),
                   "free_bytes": free, "total_bytes": total, "compiler": compiler_problem(device) or "there"})
    report("TensorFloat-32", {"products": torch.backends.cuda.matmul.allow_tf32,
                              "convolutions": torch.backends.cudnn.allow_tf32})


def load(visit: Visit, report: Report) -> None:
    """Write weights made by `rule` into a file as it is published, and load it in float32 and in the device's type."""
    began, path, sizes, device = time.perf_counter(), weights_file(visit), sizes_of(visit), device_of(visit)
    sizes.save(path.parent / "config.json")
    write_weights(visit, path)
    report("file", {"seconds": time.perf_counter() - began, "size_bytes": path.stat().st_size})
    outputs = ("cameras", "depth")
    for kind in dict.fromkeys((torch.float32, choose_dtypes("auto", device)[0])):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        before, began = _host_peak(), time.perf_counter()
        network = weights.load(path, device, kind, outputs)
        synchronize(device)
        figures = {"seconds": time.perf_counter() - began, "model_bytes": memory.weight_bytes(sizes, kind, outputs),
                   "parameters_bytes": sum(value.nbytes for value in network.state_dict().values()),
                   "host_growth_bytes": _host_peak() - before}
        if device.type == "cuda":
            figures |= {"allocated_bytes": torch.cuda.memory_allocated(device),
                        "peak_bytes": torch.cuda.max_memory_allocated(device)}
        elsewhere = [name for name, value in network.named_parameters() if value.device.type != device.type]
        report(f"loading as {str(kind).removeprefix('torch.')}", {**figures, "parameters_elsewhere": len(elsewhere)})
        del network


def write_weights(visit: Visit, path: Path) -> None:
    """Write a `.safetensors` file tensor by tensor: a machine with little memory does not hold it as a whole."""
    shapes = weights.tensor_shapes(sizes_of(visit))
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file, ThreadPoolExecutor() as pool:
        file.write(len(text).to_bytes(8, "little") + text)
        names = list(shapes)
        for first in range(0, len(names), 16):
            for value in pool.map(lambda name: rule.weight(name, shapes[name], 0), names[first:first + 16]):
                file.write(np.ascontiguousarray(value).tobytes())


def parity(visit: Visit, report: Report) -> None:
    """Report the relative error of every mode against exact float32, and of that against reference outputs, if given.

    The modes: float32 with TensorFloat-32 in convolutions, which is what runs, and everywhere; bfloat16 and float16 in
    our way, with matrices kept in that type, and in the published one.
    """
    device, names = device_of(visit), ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")
    height, width, frames = visit.height, visit.width, 2
    reference: dict[str, np.ndarray] = {}
    stride = 1
    if visit.reference:
        with np.load(visit.reference) as data:
            reference = {name: data[name] for name in data.files}
        frames, height, width, stride = (int(value) for value in reference.pop("meta"))
    images = torch.from_numpy(rule.images(frames, height, width)).to(device)
    network = load_network(visit, torch.float32, OUTPUTS)

    def run(kind: torch.dtype) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            with autocast(device, kind):
                layers = network.aggregate(network.aggregator.encode(images), (height, width))
            wanted = queries(height, width).to(device) if "track_track" in reference else None
            result = network.decode({layer: x.float() for layer, x in layers.items()}, (height, width), OUTPUTS, wanted)
        return {name: value.float().cpu().numpy() for name, value in result.items()}

    exact: dict[str, np.ndarray] = {}
    for label, products, convolutions in (("float32", False, False), ("float32, TF32 in convolutions", False, True),
                                          ("float32, TF32 everywhere", True, True)):
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions
        found = run(torch.float32)
        exact = exact or found
        if reference:
            report(f"{label}, against the reference", _reference_errors(found, reference, stride))
        if found is not exact:
            report(label, {name: relative_error(found[name], exact[name]) for name in names})
        if device.type != "cuda":
            break
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    for kind in (torch.bfloat16, torch.float16) if device.type == "cuda" else (torch.bfloat16,):
        label = str(kind).removeprefix("torch.")
        published = run_reference(network, images, kind)
        report(f"{label}, published mode",
               {name: relative_error(value.float().cpu(), exact[name]) for name, value in published.items()})
        kept = [value.data for value in network.parameters()]
        for name, value in network.named_parameters():
            value.data = value.data.to(weights.storage_dtype(name, tuple(value.shape), kind))
        report(label, {name: relative_error(value, exact[name]) for name, value in run(kind).items() if name in names})
        for value, before in zip(network.parameters(), kept, strict=True):
            value.data = before


def _reference_errors(found: dict[str, np.ndarray], reference: dict[str, np.ndarray],
                      stride: int) -> dict[str, float]:
    """Return the relative errors against the arrays of a reference file that have the name of an output."""
    renamed = {"track": "track_track", "track_vis": "track_vis", "track_conf": "track_conf"}
    errors = {}
    for name, value in found.items():
        expected = reference.get(renamed.get(name, name))
        if expected is not None:
            dense = value if name == "pose_enc" or name in renamed else value[:, ::stride, ::stride]
            errors[name] = relative_error(dense.reshape(expected.shape), expected)
    return errors


def window(visit: Visit, report: Report) -> None:
    """Report what the node relies on: results that do not change, tokens that are reused, one wait, memory returned."""
    device = device_of(visit)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    vggt = reconstructor_of(visit)
    vggt.prepare(visit.width, visit.height)
    report("status", dict(vggt.status_values))
    step = visit.frames - visit.overlap
    kept = []
    for number in range(4):
        geometry = vggt.reconstruct(Window(number, keyframes_of(visit, number * step, visit.frames)))
        kept.append((geometry.depth, zlib.crc32(np.ascontiguousarray(geometry.depth).tobytes())))
    vggt.inference.clear_cache()
    fresh = vggt.reconstruct(Window(9, keyframes_of(visit, 3 * step, visit.frames)))
    report("windows", {
        "reused_tokens": int(geometry.report["reused_tokens"]),
        "earlier_results_unchanged": all(zlib.crc32(np.ascontiguousarray(depth).tobytes()) == sum_
                                         for depth, sum_ in kept),
        "reuse_changes_depth_by": float(np.nanmax(np.abs(geometry.depth / fresh.depth - 1)))})
    if device.type == "cuda":
        for far in (0.0, 3.0):
            vggt.inference.settings = config_of(visit, far=far).of(VggtConfig)
            torch.cuda.set_sync_debug_mode("warn")
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                vggt.inference.run(keyframes_of(visit, 100, visit.frames))
            torch.cuda.set_sync_debug_mode("default")
            where = [f"{Path(one.filename).name}:{one.lineno}" for one in seen if "synchron" in str(one.message)]
            report(f"waits with vggt.far {far:g} (1 is expected)", {"count": len(where), "where": where})
    vggt.close()
    if device.type == "cuda":
        report("after close", {"leaked_bytes": torch.cuda.memory_allocated(device) - before,
                               "reserved_bytes": torch.cuda.memory_reserved(device)})


def _host_peak() -> int:
    """Return the largest resident memory of this process so far, bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
