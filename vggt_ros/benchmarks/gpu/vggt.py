"""benchmark vggt: latency, memory and throughput of the network, compared with the published way to run it.

torch is imported in the processes that measure, not here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

HEADER = (f"{'mode':<10} {'S':>3} {'shared':>6} {'image':>9} {'type':>9} {'computed':>9} {'first':>8} {'median':>8} "
          f"{'p95':>8} {'peak':>7} {'model':>7} {'':>8}\n{'':<60} {'s':>8} {'s':>8} {'s':>8} {'GB':>7} {'GB':>7} "
          f"{'TFLOP/s':>8}")


class BenchmarkError(RuntimeError):
    """A measurement failed; the text is the last line of its output."""


def vggt(frames: int = 8, overlap: int = 3, size: tuple[int, int] = (518, 392), dtype: str = "auto",
         network: str = "full", rounds: int = 3, repeat: int = 5, compile_: bool = False,
         same_kernels: bool = False) -> dict[str, Any]:
    """Measure our mode and the reference mode in turn, each in a separate process; print and return the figures.

    Args:
        frames, overlap: of a window.
        size: width and height of the images.
        dtype: as the setting `vggt.dtype`.
        network: `full` or `small`.
        rounds: processes of each mode.
        repeat: timed windows in a process after the first; with 0 it is the first that counts.
        compile_: as the setting `vggt.compile`.
        same_kernels: let ours multiply in `dtype` even where this machine is faster without.

    Raises:
        BenchmarkError: torch is missing, sizes do not fit, or a process failed.

    """
    if find_spec("torch") is None:
        raise BenchmarkError("vggt needs torch, which is not installed: pip install torch")
    if any(side < 14 or side % 14 for side in size) or not 0 <= overlap < frames:
        raise BenchmarkError(f"vggt wants images of multiples of 14 pixels, not {size[0]}x{size[1]}, and fewer shared "
                             f"frames ({overlap}) than frames ({frames})")
    results: dict[str, list[dict[str, Any]]] = {"reference": [], "ours": []}
    print(HEADER, flush=True)
    for _ in range(rounds):
        for mode, figures in results.items():
            figures.append(_measure(mode, ["--network", network, "--frames", str(frames), "--overlap", str(overlap),
                                           "--size", *map(str, size), "--dtype", dtype, "--repeat", str(repeat),
                                           *(["--compile"] if compile_ and mode == "ours" else []),
                                           *(["--same-kernels"] if same_kernels else [])]))
            _print(figures[-1])
    seconds = {mode: float(np.median([f["median_s"] for f in figures])) for mode, figures in results.items()}
    peak = {mode: max(f["peak_bytes"] for f in figures) for mode, figures in results.items()}
    ratios = {"time_ratio": seconds["ours"] / seconds["reference"], "memory_ratio": peak["ours"] / peak["reference"]}
    print(f"{results['ours'][0]['device']}: {ratios['time_ratio']:.2f} of the reference mode's time, "
          f"{ratios['memory_ratio']:.2f} of its peak memory")
    parts = results["ours"][-1].get("parts")
    if parts:
        print("; ".join(f"{part} {100 * value / sum(parts.values()):.0f} %" for part, value in parts.items()))
    return {**results, **ratios}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `vggt`."""
    parser.add_argument("--frames", type=int, default=8, help="of a window (default 8)")
    parser.add_argument("--overlap", type=int, default=3, help="of them shared with the window before (default 3)")
    parser.add_argument("--size", type=int, nargs=2, default=(518, 392), metavar=("WIDTH", "HEIGHT"),
                        help="of the images, multiples of 14 (default 518 392)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"),
                        help="as the setting vggt.dtype (default auto)")
    parser.add_argument("--network", default="full", choices=("full", "small"), help="the published sizes, or a "
                        "network that a CPU runs quickly (default full)")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each mode (default 3)")
    parser.add_argument("--repeat", type=int, default=5, help="timed windows in a process after the first; 0: that "
                        "one (default 5)")
    parser.add_argument("--compile", action="store_true", help="as the setting vggt.compile")
    parser.add_argument("--same-kernels", action="store_true", help="multiply in --dtype even where this machine is "
                        "faster without: a CPU that has no bfloat16 unit computes in float32 otherwise")
    parser.set_defaults(run=lambda options: (vggt(
        options.frames, options.overlap, tuple(options.size), options.dtype, options.network, options.rounds,
        options.repeat, options.compile, options.same_kernels), True))


def _measure(mode: str, options: Sequence[str]) -> dict[str, Any]:
    """Return the figures of one process; raises BenchmarkError."""
    done = subprocess.run([sys.executable, "-m", "vggt_ros.benchmarks.gpu.vggt_measure", mode, *options],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        raise BenchmarkError(f"vggt, {mode}: {last[0]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _print(f: dict[str, Any]) -> None:
    """Print a line of the table."""
    print(f"{f['mode']:<10} {f['frames']:>3} {f['overlap']:>6} {f['width']:>5}x{f['height']:<3} {f['dtype']:>9} "
          f"{f['compute']:>9} {f['first_s']:>8.2f} {f['median_s']:>8.2f} {f['p95_s']:>8.2f} "
          f"{f['peak_bytes'] / 1e9:>7.2f} {f.get('model_bytes', np.nan) / 1e9:>7.2f} {f['tflop_per_s']:>8.3f}",
          flush=True)
