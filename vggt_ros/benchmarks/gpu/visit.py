"""benchmark gpu_visit: what a GPU must tell about VGGT, in one run of a few minutes, without network and weights.

Every section runs in a process of its own. An error, a crash, a lost context or a hang of one leaves the others alone.
The processes are forked from one that has imported torch and has not touched the GPU, so each starts in a moment.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vggt_ros.benchmarks.gpu.vggt import BenchmarkError

Report = Callable[[str, dict[str, Any]], None]
"""Called by a section with the name of what was measured and its figures, as soon as they are known."""
SECTIONS = {"environment": ("visit_checks", 60.0), "load": ("visit_checks", 200.0), "parity": ("visit_checks", 120.0),
            "window": ("visit_checks", 120.0), "memory": ("visit_memory", 120.0),
            "out_of_memory": ("visit_memory", 90.0), "kernels": ("visit_speed", 60.0),
            "latency": ("visit_speed", 120.0), "options": ("visit_speed", 240.0)}
"""Name to module of this wing and most seconds of every section, the most important ones first."""
_WHOLE_FILE = 5.5e9
"""Bytes of the file of weights of the full network, with some to spare."""


@dataclass(frozen=True)
class Visit:
    """What the sections need to know.

    Attributes:
        folder: where `load` writes the weights, and the others read them.
        device: as `vggt.device`.
        network: `full` or `small`.
        width, height: of the images.
        frames, overlap: of a window.
        counts: numbers of images whose latency is measured.
        reference: reference outputs of the published network (.npz) for these sizes; empty if there are none.
        repeat: how often each time is measured.

    """

    folder: str
    device: str
    network: str
    width: int
    height: int
    frames: int
    overlap: int
    counts: tuple[int, ...]
    reference: str = ""
    repeat: int = 1


def gpu_visit(network: str = "full", device: str = "auto", budget: float = 480.0, sections: Sequence[str] = (),
              reference: Path | None = None) -> tuple[dict[str, Any], bool]:
    """Run the sections one after the other; print the figures as they come, then tables.

    Return all figures, and whether every section was done.

    Args:
        network: `full`, or `small` for a dry run on a CPU.
        device: as `vggt.device`.
        budget: seconds after which no section is begun, and the current one is ended.
        sections: names of those to run; empty for all.
        reference: reference outputs of the published network for generated weights of seed 0.

    Raises:
        BenchmarkError: torch or safetensors is missing, or the reference does not exist.

    """
    for package in ("torch", "safetensors", "huggingface_hub"):
        if find_spec(package) is None:
            raise BenchmarkError(f"gpu_visit needs {package}, which is not installed: pip install {package}")
    if reference is not None and not reference.is_file():
        raise BenchmarkError(f"{reference} does not exist")
    began = time.monotonic()
    # A forked process has no context of CUDA: the server of the processes has not asked for any.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.{module}" for module, _ in SECTIONS.values()])
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gpu_visit_", dir=_fast_folder(network)) as folder:
        small = network == "small"
        visit = Visit(folder, device, network, 126, 98, 4, 2, (1, 4), str(reference or ""), 1) if small else \
            Visit(folder, device, network, 518, 392, 8, 3, (1, 8, 32), str(reference or ""), 5)
        for name, (_, limit) in SECTIONS.items():
            left = budget - (time.monotonic() - began)
            if sections and name not in sections:
                continue
            print(f"{name}:", flush=True)
            results[name] = _isolated(context, visit, name, min(limit, left)) if left > 0 else \
                {"state": "left out, no time is left", "seconds": 0.0, "figures": {}}
            print(f"  {results[name]['state']}, {results[name]['seconds']:.1f} s", flush=True)
    total = time.monotonic() - began
    failed = [name for name, result in results.items() if result["state"] != "done"]
    print(f"\n{tables(results)}\n{len(results) - len(failed)} of {len(results)} sections in {total:.0f} s"
          + (f"; not done: {', '.join(failed)}" if failed else ""))
    return {"network": network, "seconds": total, "not_done": failed, "sections": results}, not failed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `gpu_visit`."""
    parser.add_argument("--network", choices=("full", "small"), default="full",
                        help="the published sizes, or a small network for a dry run on a CPU (default full)")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="as the setting vggt.device")
    parser.add_argument("--budget", type=float, default=480.0, metavar="S", help="seconds for everything (default 480)")
    parser.add_argument("--sections", nargs="+", default=[], choices=tuple(SECTIONS), metavar="NAME",
                        help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--reference", type=Path, metavar="FILE",
                        help="reference outputs of the published network (.npz) for generated weights of seed 0")
    parser.set_defaults(run=lambda options: gpu_visit(
        options.network, options.device, options.budget, options.sections, options.reference))


def run_section(connection: Connection, visit: Visit, name: str) -> None:
    """Run a section; the target of its process."""
    try:
        if visit.network == "small":  # a dry run: threads that wait for each other on a busy machine take far longer
            importlib.import_module("torch").set_num_threads(1)
        module = importlib.import_module(f"{__package__}.{SECTIONS[name][0]}")
        getattr(module, name)(visit, lambda item, figures: connection.send((item, figures)))
        connection.send(("", "done"))
    except Exception as error:
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        where = traceback.extract_tb(error.__traceback__)[-1]
        traceback.print_exc()
        connection.send(("", f"failed: {type(error).__name__}: {line} ({Path(where.filename).name}:{where.lineno})"))


def _isolated(context: Any, visit: Visit, name: str, limit: float) -> dict[str, Any]:
    """Run a section in a process of its own, at most `limit` seconds; return state, seconds and figures."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run_section, args=(theirs, visit, name), name=name)
    began, figures, state = time.monotonic(), {}, ""
    process.start()
    theirs.close()
    try:
        while not state:
            left = limit - (time.monotonic() - began)
            if left <= 0 or not ours.poll(left):
                state = f"ended after {limit:.0f} s"
                break
            item, value = ours.recv()
            if item:
                figures[item] = value
                print(f"  {item}: {_text(value)}", flush=True)
            else:
                state = value
    except (EOFError, OSError):
        process.join(5.0)
        state = f"failed: its process ended with exit status {process.exitcode}"
    finally:
        process.kill()
        process.join()
        ours.close()
    return {"state": state, "seconds": time.monotonic() - began, "figures": figures}


def tables(results: dict[str, Any]) -> str:
    """Return Markdown tables of all figures: latencies as in docs/measurements/gpu.md, then one for each section."""
    device = results.get("environment", {}).get("figures", {}).get("device", {}).get("name", "?")
    lines = []
    latency = results.get("latency", {}).get("figures", {})
    if latency:
        lines += ["| device | window | mode | computed in | median, s (ratio) | peak memory (ratio) |",
                  "|---|---|---|---|---|---|"]
        for row in latency.values():
            memory = f"{row['peak_bytes'] / 1e9:.2f} GB{_ratio(row, 'memory_ratio')}" if row["peak_bytes"] else ""
            lines.append(f"| {device} | {row['window']} | {row['mode']} | {row['computed']} | "
                         f"{row['seconds']:.3g}{_ratio(row, 'time_ratio')} | {memory} |")
    for name, result in results.items():
        lines += ["", f"| {name} | figures |", "|---|---|", f"| state | {result['state']} |"]
        lines += [f"| {item} | {_text(value)} |" for item, value in result["figures"].items()]
    return "\n".join(lines)


def _ratio(row: dict[str, Any], name: str) -> str:
    return f" ({row[name]:.2f})" if name in row else ""


def _text(figures: dict[str, Any]) -> str:
    """Return figures in one line: bytes in GB, numbers with three digits."""
    def one(name: str, value: Any) -> str:
        if isinstance(value, float | int) and not isinstance(value, bool):
            if name.endswith("_bytes"):
                return f"{name.removesuffix('_bytes')} {value / 1e9:.3f} GB"
            return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        return f"{name} {value}"

    return ", ".join(one(name, value) for name, value in figures.items())


def _fast_folder(network: str) -> str | None:
    """Return a folder in memory for the weights if there is room; None for the usual one."""
    memory = Path("/dev/shm")
    room = 3 * _WHOLE_FILE if network == "full" else 3e9
    enough = sys.platform == "linux" and memory.is_dir() and shutil.disk_usage(memory).free > room
    return str(memory) if enough else None
