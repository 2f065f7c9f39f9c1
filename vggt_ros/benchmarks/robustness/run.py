"""All parts of the benchmark, one after the other, and their table."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vggt_ros.benchmarks.robustness.network import hostile_messages
from vggt_ros.benchmarks.robustness.outcome import Outcome
from vggt_ros.benchmarks.robustness.processes import killed_reconstructor, lifecycle_cycles, soak
from vggt_ros.benchmarks.robustness.running_node import rendered_frames
from vggt_ros.benchmarks.robustness.saved_maps import damaged_maps, killed_saves, reduced, rendered_map, save
from vggt_ros.ros.tools.node_process import NodeError


def robustness(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Run the parts whose count is not 0, print a table, and return the figures and whether nothing was wrong."""
    os.environ |= {"ROS_DOMAIN_ID": str(options.domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="vggt_ros_robustness_") as scratch:
        folder = options.logs or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["ROS_LOG_DIR"] = str(folder / "ros_log")
        for name, part in _parts(options, folder):
            tqdm.write(f"{name} ...")
            began = time.monotonic()
            try:
                outcome = part()
            except NodeError as error:
                outcome = Outcome(name, 0)
                outcome.fault(str(error))
            outcome.figures["seconds"] = round(time.monotonic() - began)
            outcomes.append(outcome)
            _print(outcome)
    faults = sum(outcome.fault_count for outcome in outcomes)
    tqdm.write(f"{faults or 'no'} fault{'s' * (faults != 1)} in {len(outcomes)} parts")
    return {outcome.name: {"count": outcome.count, **outcome.figures, "fault_count": outcome.fault_count,
                           "faults": outcome.faults} for outcome in outcomes}, not faults


def _parts(options: argparse.Namespace, folder: Path) -> list[tuple[str, Callable[[], Outcome]]]:
    parts: list[tuple[str, Callable[[], Outcome]]] = []
    if options.kills or options.damaged:
        record, saved = reduced(rendered_map()), folder / "saved" / "map"
        saved.parent.mkdir(parents=True, exist_ok=True)

        def fresh() -> Path:
            save(saved, record)
            return saved

        if options.kills:
            parts.append(("kills in a save", lambda: killed_saves(fresh(), options.kills)))
        if options.damaged:
            parts.append(("damaged maps", lambda: damaged_maps(fresh(), options.damaged)))
    frames, domain = rendered_frames(), options.domain
    if options.messages:
        parts.append(("hostile messages", lambda: hostile_messages(folder, domain, frames, options.messages)))
    if options.cycles:
        parts.append(("lifecycle cycles", lambda: lifecycle_cycles(folder, domain, frames, options.cycles)))
    if options.child_kills or options.hangs:
        parts.append(("kills and hangs of the reconstructor", lambda: killed_reconstructor(
            folder, domain, frames, options.child_kills, options.hangs)))
    if options.soak:
        parts.append(("soak, seconds", lambda: soak(folder, domain, frames, options.soak, options.rate)))
    return parts


def _print(outcome: Outcome) -> None:
    tqdm.write(f"{outcome.name}: {outcome.count:g}")
    for name, value in outcome.figures.items():
        tqdm.write(f"    {name:<50}{' to '.join(map(str, value)) if isinstance(value, list) else value:>16}")
    for fault in outcome.faults:
        tqdm.write(f"    FAULT: {fault}")
    if outcome.fault_count > len(outcome.faults):
        tqdm.write(f"    and {outcome.fault_count - len(outcome.faults)} more")
