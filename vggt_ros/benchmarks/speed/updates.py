"""Duration of pose graph updates: measurements drawn from their own covariances, without images and network."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from types import TracebackType
from typing import Self

import numpy as np
from tqdm import tqdm

from vggt_ros.arguments import count
from vggt_ros.geometry.poses import Array, Sim3, so3_exp
from vggt_ros.geometry.sim3 import exp, to_sim3
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.threads import shorten_switch_interval
from vggt_ros.windows.solution import Edge

_STRIDE, _SHARED = 5, 2
"""New keyframes of a window, and relative poses that it shares with the one before."""
_LAP = 200
"""Windows in a lap."""
_LOOP_INTERVAL = 17
"""From the second lap on, one in so many windows has a true loop, and one a false loop."""
_RELATIVE_POSE_SIGMAS = np.array([0.002] * 3 + [0.01] * 3 + [0.003])
_LOOP_SIGMAS = 3 * _RELATIVE_POSE_SIGMAS
"""Sigmas of a relative pose and of a loop: radians, meters, logarithm of scale."""


class WaitingTime:
    """Context in which a thread measures how long it waits until it runs, as other threads of the node would."""

    _PAUSE = 0.001

    def __enter__(self) -> Self:
        """Start the thread; the interpreter switches threads as often as in the node."""
        self.seconds: list[float] = []
        self._interval = sys.getswitchinterval()
        shorten_switch_interval()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()
        sys.setswitchinterval(self._interval)

    def _watch(self) -> None:
        began = time.perf_counter()
        while not self._ended.wait(self._PAUSE):
            now = time.perf_counter()
            self.seconds.append(now - began - self._PAUSE)
            began = now


def updates(windows: int = 1000, seed: int = 0) -> dict[str, float]:
    """Chain windows on a course, with as many false loops as true ones, print how long updates take and return it.

    The delay of another thread is measured in a second run, because the waiting thread takes time itself.
    """
    seconds, accepted = _chain(windows, seed)
    with WaitingTime() as waiting:
        _chain(windows, seed)
    figures = {f"{name}_{quantile}_ms": float(1e3 * np.quantile(values, level)) for name, values in
               (("update", seconds), ("others_wait", waiting.seconds))
               for quantile, level in (("median", 0.5), ("p99", 0.99), ("worst", 1.0))}
    print(f"{'ms':<28} {'median':>8} {'p99':>8} {'worst':>8}")
    for name, title in (("update", "an update"), ("others_wait", "another thread waits")):
        print(f"{title:<28} " + " ".join(f"{figures[f'{name}_{q}_ms']:>8.2f}" for q in ("median", "p99", "worst")))
    for true, (taken, total) in accepted.items():
        print(f"{taken} of {total} {'true' if true else 'false'} loops accepted when they were added")
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark updates`."""
    parser.add_argument("--windows", type=count, default=1000, help="number of windows (default 1000)")
    parser.set_defaults(run=lambda options: (updates(options.windows), True))


def _chain(windows: int, seed: int) -> tuple[list[float], dict[bool, list[int]]]:
    """Return seconds of each update, and for true and false loops how many were accepted and how many were added.

    An update is all that one window adds: new keyframes, relative poses that the map has already, and perhaps a loop.
    """
    rng = np.random.default_rng(seed)
    truth = _trajectory(windows, rng)
    graph = PoseGraph(_STRIDE)
    graph.add_submap(0, truth[0])
    seconds, accepted = [], {True: [0, 0], False: [0, 0]}
    for window in tqdm(range(windows), unit="window", disable=None):
        begin, end = max(1, window * _STRIDE), (window + 1) * _STRIDE
        edges = [Edge(i - 1, i, "overlap", *_measured(truth, i - 1, i, _RELATIVE_POSE_SIGMAS, rng))
                 for i in range(max(1, begin - _SHARED), end)]
        loops = _loops(window, truth, rng)
        began = time.perf_counter()
        graph.merge([edge for edge in edges if edge.second < begin])
        graph.add_nodes([edge for edge in edges if edge.second >= begin])
        added = [(true, graph.add_loop(*loop)) for true, loop in loops]
        seconds.append(time.perf_counter() - began)
        for true, loop in added:
            accepted[true][0] += loop.accepted
            accepted[true][1] += 1
    return seconds, accepted


def _trajectory(windows: int, rng: np.random.Generator) -> list[Sim3]:
    """Return the keyframes of laps of 400 m around an uneven field, each window at a scale of its own."""
    count = windows * _STRIDE
    angle = 2 * np.pi * np.arange(count) / (_LAP * _STRIDE)
    positions = np.stack([75 * np.cos(angle), 0.3 * np.sin(2 * angle), 50 * np.sin(angle)], axis=1)
    positions += 0.05 * rng.standard_normal(positions.shape)
    scales = np.exp(0.3 * rng.standard_normal(windows)).repeat(_STRIDE)
    return [Sim3(float(scale), so3_exp(np.array([0.0, -a, 0.0])), position)
            for scale, a, position in zip(scales, angle, positions, strict=True)]


def _measured(truth: list[Sim3], first: int, second: int, sigma: Array, rng: np.random.Generator,
              look_alike: Sim3 | None = None) -> tuple[Sim3, Array]:
    """Return a noisy relative pose and its covariance (7, 7); that of a look-alike place, if one is given."""
    sigma = sigma / np.array([1, 1, 1, *[truth[second].scale] * 3, 1])
    true = truth[first].inverse() @ (truth[second] if look_alike is None else truth[first] @ look_alike)
    return true @ to_sim3(exp((sigma * rng.standard_normal(7))[None]))[0], np.diag(sigma**2)


def _loops(window: int, truth: list[Sim3], rng: np.random.Generator) -> list[tuple[bool, tuple[int, int, Sim3, Array]]]:
    """Return whether each loop of a window is true, and the loop: both keyframes, relative pose and covariance."""
    newer, phase, found = window * _STRIDE + 2, window % _LOOP_INTERVAL, []
    if window > _LAP and phase == 0:
        older = newer - _LAP * _STRIDE * int(rng.integers(1, window // _LAP + 1))
        found.append((True, (older, newer, *_measured(truth, older, newer, _LOOP_SIGMAS, rng))))
    if window > _LAP and phase == _LOOP_INTERVAL // 2:
        older = int(rng.integers(0, newer - 20 * _STRIDE))
        look_alike = Sim3(truth[newer].scale / truth[older].scale, so3_exp(0.3 * rng.standard_normal(3)),
                          rng.standard_normal(3) / truth[older].scale)
        found.append((False, (older, newer, *_measured(truth, older, newer, _LOOP_SIGMAS, rng, look_alike))))
    return found
