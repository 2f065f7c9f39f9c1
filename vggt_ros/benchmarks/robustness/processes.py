"""Lifecycle transitions again and again, a reconstructor that is killed or hangs, and hours of work."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vggt_ros.benchmarks.robustness.outcome import Outcome
from vggt_ros.benchmarks.robustness.running_node import Frames, RunningNode, account, running_node
from vggt_ros.process_info import open_files_and_threads

_RELOAD_TIMEOUT, _DEADLINE = 120.0, 20.0
"""Longest wait until the reconstructor is there again, and `windows.deadline`, seconds."""
_WARM_UP_CYCLES = 3
"""Lifecycle cycles before open files and threads are counted."""
MAX_KEYFRAMES = 100
"""`map.max_keyframes` of the soak."""
_FULL_AFTER = 600.0
"""Seconds after which `map.max_keyframes` must have been reached."""
_GROWTH_LIMIT = 2.0
"""Largest growth of memory over the last half of the soak, percent."""
_EARLY = 300.0
"""Time after which the latencies of the soak are noted for comparison with those at its end, seconds; the status has
those of the newest 2,000 images of each kind, about as many minutes."""
_SLOWDOWN_LIMIT = 1.1
"""Largest median latency at the end of the soak over the early one."""


def lifecycle_cycles(folder: Path, domain: int, frames: Frames, count: int) -> Outcome:
    """Deactivate, clean up, configure and activate `count` times, with images all the time."""
    outcome, before = Outcome("lifecycle cycles", count), None
    with running_node(folder, domain, frames, "lifecycle") as node:
        for cycle in tqdm(range(count), unit="cycle", disable=None):
            node.camera.on = True
            node.lifecycle.change("deactivate", "cleanup", "configure", "activate")
            if cycle + 1 == min(_WARM_UP_CYCLES, count):
                before = _resources(node)
        fault = node.tracking_fault()
        outcome.require(not fault, f"afterwards: {fault}")
        account(node.settle(), outcome)
        node.camera.on = False
        node.lifecycle.change("deactivate", "cleanup", "configure", "activate")
        after = _resources(node)
        for name, first, last in zip(("open files", "threads"), before or after, after, strict=True):
            outcome.figures[name] = [first, last]
            outcome.require(last <= first + 2, f"{name} grew from {first} to {last}")
        node.end(outcome)
    return outcome


def _resources(node: RunningNode) -> tuple[int, int]:
    """Return the numbers of open files and threads once the reconstructor is loaded."""
    node.until(lambda: node.recorder.status.get("state") not in ("LOADING", None), _RELOAD_TIMEOUT)
    node.spin(1.0)
    return open_files_and_threads(node.pid)


def killed_reconstructor(folder: Path, domain: int, frames: Frames, kills: int, hangs: int = 1) -> Outcome:
    """Kill the process of the reconstructor `kills` times, then let it hang `hangs` times, and once more at the end."""
    outcome, longest = Outcome("kills and hangs of the reconstructor", kills + hangs), 0.0
    with running_node(folder, domain, frames, "reconstructor", {"windows.deadline": _DEADLINE}) as node:
        for number in tqdm(range(kills + hangs), unit="kill", disable=None):
            fault = node.tracking_fault()
            outcome.require(not fault, f"before kill {number}: {fault}")
            windows, began = int(node.status()["windows"]), time.monotonic()
            old = node.signal_child(signal.SIGKILL if number < kills else signal.SIGSTOP)
            back = node.until(lambda old=old, windows=windows: node.child not in (None, old)  # type: ignore[misc]
                              and int(node.recorder.status["windows"]) > windows + 1, _RELOAD_TIMEOUT)
            outcome.require(back, f"kill {number}: no window is solved {_RELOAD_TIMEOUT:g} s afterwards")
            longest = max(longest, time.monotonic() - began)
        status = node.status()
        reloads = int(status["reconstructor reloads"])
        outcome.require(reloads == kills + hangs, f"{reloads} reloads are counted")
        outcome.figures |= {"reloads counted": reloads, "windows lost, as counted": int(status["windows lost"]),
                            "longest seconds until windows are solved again": round(longest, 1)}
        fault = node.tracking_fault()
        outcome.require(not fault, f"afterwards: {fault}")
        account(node.settle(), outcome, node.sent)
        node.camera.on = True
        node.until(lambda: node.recorder.status["worker"] == "busy", _RELOAD_TIMEOUT)
        node.signal_child(signal.SIGSTOP)
        node.spin(1.0)
        node.end(outcome, "seconds to end while it hangs")
    return outcome


def soak(folder: Path, domain: int, frames: Frames, seconds: float, rate: float) -> Outcome:
    """Map at `rate` images a second, with `map.max_keyframes` reached; memory and latency must not grow.

    The growth of memory is that of a line through the memory of node and reconstructor in the last half of the time.
    """
    outcome, samples = Outcome("soak, seconds", seconds), list[tuple[float, float, float]]()
    early: dict[str, float] = {}
    with running_node(folder, domain, frames, "soak", {
            "map.max_keyframes": MAX_KEYFRAMES, "windows.size": 6}, rate=rate) as node:
        fault = node.tracking_fault()
        outcome.require(not fault, f"at the beginning: {fault}")
        began = time.monotonic()
        with tqdm(total=round(seconds), unit="s", disable=None) as bar:
            while (elapsed := time.monotonic() - began) < seconds:
                node.spin(min(1.0, seconds - elapsed) + 1e-3)
                samples.append((elapsed, node.resident_mb(), float(node.recorder.status["released"])))
                bar.update(round(elapsed) - bar.n)
                if not early and elapsed >= _EARLY:
                    early = _latencies(node.recorder.status)
        status, sent = node.status(), node.sent
        fault = node.tracking_fault()
        outcome.require(not fault, f"at the end: {fault}")
        outcome.require(int(status["released"]) > 0 or seconds < _FULL_AFTER,
                        f"map.max_keyframes ({MAX_KEYFRAMES}) is not reached")
        outcome.figures |= {"images sent": sent, "images received": int(status["images received"]), **{
            key: int(status[key]) for key in ("tracked", "lost", "windows", "windows lost", "released")}}
        for name, late in _latencies(status).items() if early else ():
            first = early.get(name, late)
            outcome.figures[name] = [first, late]
            outcome.require("median" not in name or late <= _SLOWDOWN_LIMIT * first,
                            f"{name} grew from {first:g} to {late:g}")
        account(node.settle(), outcome, node.sent)
        node.end(outcome)
    growth, middle = memory_growth(samples, seconds / 2)
    outcome.figures |= {"memory MB": round(middle), "growth in the last half, %": round(growth, 2)}
    outcome.require(growth <= _GROWTH_LIMIT, f"memory grew by {growth:.1f} % in the last half")
    return outcome


def _latencies(status: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in status.items() if name.startswith("latency ")}


def memory_growth(samples: list[tuple[float, float, float]], since: float) -> tuple[float, float]:
    """Return the growth of a line through memory over time `since`, percent of its middle, and the middle, MB."""
    times, memory = np.array([(when, value) for when, value, _ in samples if when >= since]).T
    slope, start = np.polyfit(times, memory, 1)
    middle = float(start + slope * times.mean())
    return 100 * float(slope) * float(np.ptp(times)) / middle, middle
