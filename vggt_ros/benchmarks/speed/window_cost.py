"""benchmark window: time and memory of one window on a CPU, for each reconstructor, with generated weights.

Speed does not depend on the values of the weights. Each figure is of a process of its own, bound to as many cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from vggt_ros.arguments import add_settings
from vggt_ros.config import Config
from vggt_ros.process_info import resident_bytes
from vggt_ros.settings import ConfigError

NETWORKS = ("da3-small", "da3-base", "vggt", "multiview")
MORE_NETWORKS = ("da3-large", "da3-giant")


def window_cost(names: Sequence[str], cores: Sequence[int], frames: int = 8, rounds: int = 3,
                settings: Sequence[str] = ()) -> dict[str, Any]:
    """Print the table; return all figures.

    Args:
        names: of `NETWORKS` and `MORE_NETWORKS`.
        cores: numbers of cores that a process may use.
        frames: images in a window.
        rounds: windows that are timed, after a first one.
        settings: `key=value`.

    Raises:
        ConfigError: a setting is wrong, or a process fails, for lack of a package or of memory.

    """
    Config().parse(list(settings))
    print(f"{frames} images; seconds of a window after the first, median of {rounds}; memory is resident, at most\n"
          f"{'':<10} {'images':>8} {'cores':>5} {'parameters':>10} {'s a window':>10} {'CPU s':>7} {'memory MB':>9} "
          f"{'before MB':>9}", flush=True)
    figures: dict[str, Any] = {}
    for name in names:
        for count in cores:
            words = [sys.executable, "-m", __name__, name, str(count), str(frames), str(rounds), *settings]
            # Threads that wait sleep: else the CPU time on a busy machine is mostly that of waiting.
            environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE",
                           **{key: str(count) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS",
                                                          "OPENBLAS_NUM_THREADS")}}
            done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:] or [f"it ended with status {done.returncode}"]
                raise ConfigError(f"{name} on {count} cores: {last[0]}")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            print(f"{name:<10} {found['size']:>8} {count:>5} {found['parameters_m']:>8.0f} M {found['seconds']:>10.1f} "
                  f"{found['cpu_s']:>7.1f} {found['memory_mb']:>9.0f} {found['before_mb']:>9.0f}", flush=True)
            figures[f"{name}, {count} cores"] = found
    return {"frames": frames, "rounds": rounds, "windows": figures}


def measure(name: str, frames: int, rounds: int, settings: Sequence[str]) -> dict[str, Any]:
    """Return the figures of one reconstructor in this process."""
    # Late: the parent needs none of these, and torch takes memory.
    from vggt_ros.benchmarks.check.conformance_geometry import RenderedWindow
    from vggt_ros.geometry.camera import Rectifier
    from vggt_ros.windows.keyframe import Keyframe, Window

    config = Config().replace({"refine": "off"}).parse(list(settings))
    scene = RenderedWindow()
    with tempfile.TemporaryDirectory() as folder:
        made, parameters = _create(name, config, Path(folder))
    rectify = Rectifier(scene.camera, made.image_size(scene.camera), True)
    images = [rectify(image) for image in scene.images]
    before = resident_bytes(os.getpid()) / 2**20
    walls, used, refused = [], [], ""
    for number in range(rounds + 1):
        # New keyframes each time: nothing is known of them from the window before.
        keyframes = tuple(Keyframe(100 * number + i, 10**8 * (100 * number + i), images[i % len(images)],
                                   rectify.intrinsics) for i in range(frames))
        began, cpu = time.perf_counter(), time.process_time()
        refused = _solve(made, Window(number, keyframes))
        walls.append(time.perf_counter() - began)
        used.append(time.process_time() - cpu)
    kept = slice(1, None) if rounds else slice(None)
    return {"size": f"{images[0].shape[1]}x{images[0].shape[0]}", "parameters_m": parameters / 1e6, "seconds":
            median(walls[kept]), "cpu_s": median(used[kept]), "all_s": walls, "refused": refused,
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "before_mb": before}


def _solve(made: Any, window: Any) -> str:
    """Solve a window; with generated weights what comes out may be refused, after all has been computed."""
    from vggt_ros.reconstruction.base import ReconstructionRefused

    try:
        made.reconstruct(window)
    except ReconstructionRefused as refusal:
        return str(refusal)
    return ""


def _create(name: str, config: Config, folder: Path) -> tuple[Any, int]:
    """Return a reconstructor on the CPU, and the number of its parameters."""
    if name == "multiview":
        return importlib.import_module("vggt_ros.reconstruction.multiview.reconstructor").Multiview(config), 0
    if name == "vggt":
        from vggt_ros.benchmarks.gpu.vggt_measure import quick_network
        from vggt_ros.reconstruction.vggt.model.sizes import PUBLISHED as VGGT_SIZES
        from vggt_ros.reconstruction.vggt.reconstructor import Vggt

        vggt = Vggt(config.replace({"vggt.device": "cpu"}))
        network = quick_network(VGGT_SIZES, vggt.inference.device, vggt.inference.storage, vggt.inference.outputs)
        vggt.set_network(network)
        return vggt, sum(value.numel() for value in network.parameters())
    import torch

    from vggt_ros.reconstruction.da3.network import build, drop_unused
    from vggt_ros.reconstruction.da3.reconstructor import Da3
    from vggt_ros.reconstruction.da3.sizes import PUBLISHED

    kind = name.removeprefix("da3-").upper()
    da3 = Da3(config.replace({"da3.device": "cpu"}))
    with torch.device("meta"):
        small = build(PUBLISHED[kind])
    drop_unused(small, da3.settings.known_poses != "off")
    noise = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0))
    state = {}
    for key, value in small.state_dict().items():
        scale = float(value[0].numel()) ** -0.5 if value.dim() > 1 else 0.1
        repeats = -(-value.numel() // noise.numel())
        state[key] = scale * noise.repeat(repeats)[:value.numel()].view(value.shape)
    small.load_state_dict(state, strict=True, assign=True)
    da3.set_network(small.requires_grad_(False), kind, PUBLISHED[kind])
    return da3, sum(value.numel() for value in small.parameters())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark window`."""
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=[*NETWORKS, *MORE_NETWORKS],
                        help="default: all but da3-large and da3-giant")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2], help="cores of a process (default 1 2)")
    parser.add_argument("--frames", type=int, default=8, help="images in a window (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="windows that are timed, after a first one (default 3)")
    add_settings(parser)
    parser.set_defaults(run=lambda options: (window_cost(
        options.networks, options.cores, options.frames, options.rounds, options.set), True))


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[2])])
    print(json.dumps(measure(sys.argv[1], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])))
