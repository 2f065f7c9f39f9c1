"""Saved maps under attack: kills in the middle of a save, and files that are damaged at random.

As a program (`python -m vggt_ros.benchmarks.robustness.saved_maps FOLDER KILLS`) it kills savers of the map in FOLDER:
they are forked, which a process with threads must not do.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vggt_ros.benchmarks.robustness.outcome import Outcome
from vggt_ros.config import Config
from vggt_ros.geometry.poses import BODY_OPTICAL
from vggt_ros.mapping.files.restored_map import restore
from vggt_ros.slam import Slam
from vggt_ros.storage.map_folder import StorageError, load_map, save_map
from vggt_ros.storage.map_record import SCHEMA, MapRecord
from vggt_ros.synthetic import RenderedSequence, SceneReconstructor, laps, room
from vggt_ros.windows.frame import Frame
from vggt_ros.windows.point_cloud import PointCloud

_NAMED = re.compile(r"/\w+\.(npy|json)")


def rendered_map(images: int = 40) -> MapRecord:
    """Return the map of a part of a rendered room, from exact windows."""
    sequence = RenderedSequence("room", room(), laps(images, laps=images / 170), (320, 240))
    stamps, poses = sequence.truth
    slam = Slam(Config(), SceneReconstructor(sequence.scene, stamps.tolist(), poses))
    for stamp, image in sequence:
        if (window := slam.track(Frame(stamp, image, sequence.camera.intrinsics)).window) is not None:
            slam.step(window)
    if (last := slam.flush()) is not None:
        slam.step(last)
    return slam.record(BODY_OPTICAL)


def reduced(record: MapRecord) -> MapRecord:
    """Return a map of few bytes: its keyframes have 4x3 pixels and no features; the stamps are zero."""
    count, pixels = len(record), 12
    matrix = np.tile([[3.0, 0, 1.5], [0, 3, 1], [0, 0, 1]], (count, 1, 1))
    return replace(record, keyframe_size=np.full((count, 2), (3, 4)), keyframe_intrinsics=matrix,
                   depth=record.depth[:count * pixels], confidence=record.confidence[:count * pixels],
                   color=record.color[:count * pixels],
                   keyframe_features=np.zeros(count, np.int64), feature=record.feature[:0],
                   feature_pixel=record.feature_pixel[:0], keyframe_stamp=np.zeros(count, np.int64), submap=0,
                   appearance=record.appearance[:, :0])


def save(folder: Path, record: MapRecord) -> None:
    """Save a map without points."""
    save_map(folder, record, PointCloud.empty(), np.tile(np.eye(4), (len(record), 1, 1)), Config())


def killed_saves(folder: Path, kills: int) -> Outcome:
    """Kill a process that saves the map in `folder` again and again, in a process of its own; see `_kill_savers`."""
    command = [sys.executable, "-m", "vggt_ros.benchmarks.robustness.saved_maps", str(folder), str(kills)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=60 + 10 * kills)
    outcome = Outcome("kills in a save", kills)
    if done.returncode:
        outcome.fault(f"the killer ended with {done.returncode}")
        return outcome
    figures: dict[str, Any] = json.loads(done.stdout)
    for problem in figures.pop("problems"):
        outcome.fault(problem)
    outcome.figures.update(figures)
    return outcome


def _kill_savers(folder: Path, kills: int) -> dict[str, Any]:
    """Return how many of `kills` interrupted a save, how many saves there were, and what was wrong afterwards.

    The stamps of the keyframes are the number of the save, so that a mixture of two would show.
    """
    rng, cut, problems = random.Random(0), 0, list[str]()
    first = load_map(folder).next_window
    began = time.perf_counter()
    save(folder, load_map(folder))
    duration = time.perf_counter() - began
    for kill in tqdm(range(kills), unit="kill", disable=None):
        before = load_map(folder)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            record = before
            while True:
                record = replace(record, next_window=record.next_window + 1, keyframe_stamp=record.keyframe_stamp + 1)
                os.write(write, b".")
                save(folder, record)
        time.sleep(rng.uniform(0.0, 3 * duration))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(write)
        begun = len(os.read(read, 10**6))
        os.close(read)
        cut += any(path.name.startswith(f".{folder.name}") for path in folder.parent.iterdir())
        try:
            after = load_map(folder)
        except StorageError as error:
            problems.append(f"kill {kill}: the map is lost: {error}")
            break
        if set(after.keyframe_stamp) != {after.next_window - first}:
            problems.append(f"kill {kill}: the map is a mixture of two saves")
        if after.next_window - before.next_window not in (begun, begun - 1):
            problems.append(f"kill {kill}: a completed save is lost")
    return {"saves interrupted": cut, "saves completed": load_map(folder).next_window - first, "problems": problems}


def damage(folder: Path, rng: np.random.Generator) -> None:
    """Damage one array of a map: values, bytes, order or length."""
    name = rng.choice(list(SCHEMA))
    path = folder / f"{name}.npy"
    values, data = np.load(path), bytearray(path.read_bytes())
    kind = rng.integers(0, 4)
    if kind == 0 and values.size:
        flat = values.copy().ravel()
        special = rng.choice([np.nan, np.inf, -1, 0, 1e300, -1e300, 2**62, 1e30, 1e-30, 7])
        with np.errstate(all="ignore"):
            flat[rng.integers(0, flat.size, 2)] = np.float64(special).astype(values.dtype)
        np.save(path, flat.reshape(values.shape))
    elif kind == 1:
        for at in rng.integers(0, len(data), 4):
            data[at] = rng.integers(256)
        path.write_bytes(data)
    elif kind == 2 and len(values):
        np.save(path, values[rng.permutation(len(values))])
    else:
        path.write_bytes(data[:rng.integers(0, len(data))])


def damaged_maps(good: Path, count: int, seed: int = 0) -> Outcome:
    """Load and restore `count` damaged copies of the map in `good`.

    Right is a StorageError that names a file of the map, or a map whose poses and points are finite.
    """
    rng, outcome, refused = np.random.default_rng(seed), Outcome("damaged maps", count), 0
    copy = good.with_name(f"{good.name}_damaged")
    for number in tqdm(range(count), unit="map", disable=None):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(good, copy)
        damage(copy, rng)
        try:
            with np.errstate(all="ignore"):
                restored = restore(load_map(copy), Config())
                solution = restored.atlas.solution()
                points = restored.surface.cloud(solution).points
        except StorageError as error:
            refused += 1
            if not _NAMED.search(str(error)):
                outcome.fault(f"map {number}: the error names no file: {error}")
            continue
        except Exception as error:  # what must not happen is counted, and the others are tried
            outcome.fault(f"map {number}: {error!r}")
            continue
        if not (np.isfinite(solution.map_camera).all() and np.isfinite(points).all()):
            outcome.fault(f"map {number}: a pose or a point is not finite")
    shutil.rmtree(copy, ignore_errors=True)
    outcome.figures.update({"refused by file": refused, "restored whole": count - refused - outcome.fault_count})
    return outcome


if __name__ == "__main__":
    print(json.dumps(_kill_savers(Path(sys.argv[1]), int(sys.argv[2]))))
