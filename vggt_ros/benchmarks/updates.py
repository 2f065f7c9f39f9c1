"""How long updates of the pose graph take: constraints drawn from their own covariances, no images, no network."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self

import numpy as np
from tqdm import tqdm

from vggt_ros.geometry.poses import Array, Sim3, so3_exp
from vggt_ros.geometry.sim3 import exp, to_sim3
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.threads import shorten_switch_interval
from vggt_ros.windows.solution import Edge

_STRIDE, _SHARED = 5, 2
"""Keyframes that come with a window, and steps that it has in common with the one before."""
_LAP = 200
"""Windows of a lap."""
_EVERY = 17
"""From the second lap on, so many windows have a true loop among them, and a false one."""
_STEP = np.array([0.002] * 3 + [0.01] * 3 + [0.003])
_LOOP = 3 * _STEP
"""Sigmas of a step and of a loop: radians, meters, logarithm of scale."""


class Waiting:
    """Within it, a thread that only wants its turn notes how long it has to wait for it."""

    _PAUSE = 0.001

    def __enter__(self) -> Self:
        """Begin to wait; threads take turns as in the node."""
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
    """Chain windows around a course, with as many false loops as true ones, print what that took and return it.

    How long another thread waits for its turn is measured in a second run, since waiting threads take time themselves.
    """
    seconds, taken = _chain(windows, seed)
    with Waiting() as waiting:
        _chain(windows, seed)
    figures = {f"{name}_{quantile}_ms": float(1e3 * np.quantile(values, share)) for name, values in
               (("update", seconds), ("others_wait", waiting.seconds))
               for quantile, share in (("median", 0.5), ("p99", 0.99), ("worst", 1.0))}
    print(f"{'ms':<28} {'median':>8} {'p99':>8} {'worst':>8}")
    for name, title in (("update", "an update"), ("others_wait", "another thread waits")):
        print(f"{title:<28} " + " ".join(f"{figures[f'{name}_{q}_ms']:>8.2f}" for q in ("median", "p99", "worst")))
    for true, (count, of) in taken.items():
        print(f"{count} of {of} {'true' if true else 'false'} loops taken, when they came")
    return figures


def _chain(windows: int, seed: int) -> tuple[list[float], dict[bool, list[int]]]:
    """Return seconds of each update, and of the true and the false loops, how many were taken and how many came.

    An update is what comes with one window: new keyframes, steps that the map has already, and perhaps a loop.
    """
    rng = np.random.default_rng(seed)
    truth = _course(windows, rng)
    graph = PoseGraph(_STRIDE)
    graph.add_submap(0, truth[0])
    seconds, taken = [], {True: [0, 0], False: [0, 0]}
    for window in tqdm(range(windows), unit="window", disable=None):
        begin, end = max(1, window * _STRIDE), (window + 1) * _STRIDE
        steps = [Edge(i - 1, i, "overlap", *_measured(truth, i - 1, i, _STEP, rng))
                 for i in range(max(1, begin - _SHARED), end)]
        loops = _loops(window, truth, rng)
        began = time.perf_counter()
        graph.merge([step for step in steps if step.second < begin])
        graph.add_nodes([step for step in steps if step.second >= begin])
        closed = [(true, graph.add_loop(*loop)) for true, loop in loops]
        seconds.append(time.perf_counter() - began)
        for true, loop in closed:
            taken[true][0] += loop.accepted
            taken[true][1] += 1
    return seconds, taken


def _course(windows: int, rng: np.random.Generator) -> list[Sim3]:
    """Return the keyframes of laps of 400 m around an uneven field, each window in a unit of its own."""
    count = windows * _STRIDE
    angle = 2 * np.pi * np.arange(count) / (_LAP * _STRIDE)
    places = np.stack([75 * np.cos(angle), 0.3 * np.sin(2 * angle), 50 * np.sin(angle)], axis=1)
    places += 0.05 * rng.standard_normal(places.shape)
    units = np.exp(0.3 * rng.standard_normal(windows)).repeat(_STRIDE)
    return [Sim3(float(unit), so3_exp(np.array([0.0, -a, 0.0])), place)
            for unit, a, place in zip(units, angle, places, strict=True)]


def _measured(truth: list[Sim3], first: int, second: int, sigma: Array, rng: np.random.Generator,
              alike: Sim3 | None = None) -> tuple[Sim3, Array]:
    """Return a noisy relation and its covariance (7, 7); what looks `alike` instead of what is there, if given."""
    sigma = sigma / np.array([1, 1, 1, *[truth[second].scale] * 3, 1])
    true = truth[first].inverse() @ (truth[second] if alike is None else truth[first] @ alike)
    return true @ to_sim3(exp((sigma * rng.standard_normal(7))[None]))[0], np.diag(sigma**2)


def _loops(window: int, truth: list[Sim3], rng: np.random.Generator) -> list[tuple[bool, tuple[int, int, Sim3, Array]]]:
    """Return whether each loop of a window is true, and the loop: both keyframes, relation and covariance."""
    newer, phase, found = window * _STRIDE + 2, window % _EVERY, []
    if window > _LAP and phase == 0:
        older = newer - _LAP * _STRIDE * int(rng.integers(1, window // _LAP + 1))
        found.append((True, (older, newer, *_measured(truth, older, newer, _LOOP, rng))))
    if window > _LAP and phase == _EVERY // 2:
        older = int(rng.integers(0, newer - 20 * _STRIDE))
        alike = Sim3(truth[newer].scale / truth[older].scale, so3_exp(0.3 * rng.standard_normal(3)),
                     rng.standard_normal(3) / truth[older].scale)
        found.append((False, (older, newer, *_measured(truth, older, newer, _LOOP, rng, alike))))
    return found
