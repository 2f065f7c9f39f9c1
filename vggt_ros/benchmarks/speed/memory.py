"""benchmark memory: growth of resident memory in a bounded space."""

from __future__ import annotations

import argparse
import os

import numpy as np

from vggt_ros.arguments import add_settings, count
from vggt_ros.config import Config
from vggt_ros.process_info import resident_bytes
from vggt_ros.reconstruction.multiview.settings import MultiviewConfig
from vggt_ros.slam import Slam
from vggt_ros.synthetic import SceneReconstructor, laps, pinhole, room
from vggt_ros.windows.keyframe import Keyframe, Window


def memory(keyframes: int = 1000, lap: int = 200, config: Config | None = None) -> dict[str, float]:
    """Map a room again and again from exact geometry, print and return the resident memory.

    Windows go straight to `Slam.step`, in laps of `lap` keyframes, so that the space is bounded and only the memory of
    keyframes, windows and map grows; beyond `map.max_keyframes` keyframes are removed.
    """
    config = config or Config()
    scene = room()
    poses = laps(lap, laps=1.0)
    stamps = np.arange(keyframes) * 10**8
    truth = poses[np.arange(keyframes) % lap]
    oracle = SceneReconstructor(scene, stamps.tolist(), truth, depth_width=config.of(MultiviewConfig).depth_width)
    slam = Slam(config, oracle)
    view, shape = pinhole(320, 240), (320, 240)
    images = [scene.render(matrix, view, shape)[0] for matrix in poses[:keyframes]]  # before memory is measured
    size, overlap = config.windows.size, config.windows.overlap
    made: list[Keyframe] = []
    resident: dict[int, float] = {}
    window = 0
    for index in range(keyframes):
        made.append(Keyframe(index, int(stamps[index]), images[index % lap], view))
        if len(made) == size:
            slam.step(Window(window, tuple(made), tuple(k.id for k in made[:overlap]) if window else ()))
            made, window = made[-overlap:], window + 1
        if (index + 1) % (keyframes // 2) == 0:
            resident[index + 1] = resident_bytes(os.getpid()) / 1e6
            print(f"{index + 1} keyframes: {resident[index + 1]:.1f} MB resident, {len(slam.map_cloud())} points",
                  flush=True)
    half = keyframes // 2
    growth = (resident[2 * half] - resident[half]) / half
    print(f"{growth:.3f} MB a keyframe, {100 * (resident[2 * half] / resident[half] - 1):.1f} % in the second half; "
          f"{len(slam.solution)} keyframes in the map, {slam.counts.released} removed, {slam.counts.loops} loops")
    return {"resident_half_mb": resident[half], "resident_end_mb": resident[2 * half], "mb_a_keyframe": growth}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark memory`."""
    parser.add_argument("--keyframes", type=count, default=1000, help="number of keyframes (default 1000)")
    add_settings(parser)
    parser.set_defaults(run=lambda options: (memory(options.keyframes, config=Config().parse(options.set)), True))
