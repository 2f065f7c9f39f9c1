"""The windows of a map as a tree of scales: what its overlaps and the sources of meters say of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.scale.chain import Chain, Evidence, smooth
from vggt_ros.scale.ratios import Ratios, agree
from vggt_ros.windows.solution import Solution

_BLOCK = 1_000_000_000
"""What a source says of a window in so many nanoseconds has one error in common."""
_JOINED = 0.05
"""Sigma of the scale of a submap against the one that a loop joins it with."""


@dataclass(frozen=True, eq=False)
class WindowScales:
    """Windows that hang together, and their scale.

    Attributes:
        windows: their ids.
        scale: (w,), logarithm of the map units in a unit of each, as the map lies.
        told: (w,), what the sources and, of windows that are new since, the overlaps said of it last; else `scale`.
        better: (w,), what it is by the sources.

    """

    windows: list[int]
    scale: Array
    told: Array
    better: Array

    def straightened(self, ratios: Ratios) -> Ratios:
        """Return the ratios that would be seen if windows were as they are by the sources."""
        change = dict(zip(self.windows, (self.better - self.scale).tolist(), strict=True))
        log = ratios.log - np.array([change[window] for window in ratios.windows.tolist()])
        return Ratios(log, ratios.sigma, ratios.stamps, ratios.windows, ratios.common)


class ScaleMemory:
    """What overlaps said of scale before the sources knew better."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._chained: dict[int, float] = {}  # window to the logarithm of its scale, in units of its submap's first
        self._anchor: dict[int, int] = {}  # window to that first one
        self._told: dict[int, float] = {}  # window to what the sources said of its scale last

    def compare(self, solution: Solution, rows: NDArray[np.int64], seen: Sequence[Ratios]) -> WindowScales:
        """Return what the scale of windows is, and what it is by the sources.

        Args:
            solution: the map.
            rows: keyframes (k,) of it; all windows that hang together with theirs are answered for.
            seen: what each source says of them.

        """
        hangs = {edge.second: edge for edge in solution.edges if edge.kind == "overlap"}
        for window in solution.window_ids.tolist():  # each after the one that it hangs on
            if window not in self._chained:
                edge = hangs.get(window)
                self._anchor[window] = window if edge is None else self._anchor[edge.first]
                self._chained[window] = 0.0 if edge is None else \
                    self._chained[edge.first] + float(np.log(edge.first_second.scale))
                if edge is not None and edge.first in self._told:
                    self._told[window] = self._told[edge.first] + float(np.log(edge.first_second.scale))
        anchors = {self._anchor[window] for window in np.unique(solution.windows[rows]).tolist()}
        chosen = np.array([self._anchor[window] in anchors for window in solution.window_ids.tolist()])
        windows, scale = solution.window_ids[chosen].tolist(), np.log(solution.window_scale[chosen])
        row = {window: index for index, window in enumerate(windows)}
        edges = [hangs.get(window) for window in windows]
        chain = Chain(np.array([row[edge.first] if edge else 0 for edge in edges], np.int64),
                      np.array([np.sqrt(edge.covariance[6, 6]) if edge else _JOINED for edge in edges]))
        chain.parent[0] = -1
        # Submaps lie against each other as the loops put them, windows in them as their overlaps did.
        said = np.array([self._chained[w] + scale[row[self._anchor[w]]] for w in windows])
        told = np.array([self._told.get(w, now) for w, now in zip(windows, scale.tolist(), strict=True)])
        everything = Ratios.join(seen)
        of = np.array([row[window] for window in everything.windows.tolist()], np.int64)
        log = everything.log + (scale - said)[of]
        most = agree(Ratios(log, everything.sigma, everything.stamps, everything.windows))
        if most is None:
            return WindowScales(windows, scale, told, scale)
        evidence = Evidence(of, log, everything.sigma, *_blocks(seen))
        return WindowScales(windows, scale, told, said + smooth(chain, evidence, most.log))

    def tell(self, log_scale: Mapping[int, float]) -> None:
        """Note what was made of the windows' scale."""
        self._told |= log_scale


def _blocks(seen: Sequence[Ratios]) -> tuple[NDArray[np.int64], float]:
    """Return numbers (n,), 0, 1, ..., of what each source says of each window in each second, and how many a second."""
    said = np.concatenate([np.column_stack([np.full(len(one), source), one.stamps // _BLOCK, one.windows])
                           for source, one in enumerate(seen)])
    blocks = np.asarray(np.unique(said, axis=0, return_inverse=True)[1], np.int64).ravel()
    return blocks, len(np.unique(blocks)) / len(np.unique(said[:, :2], axis=0))
