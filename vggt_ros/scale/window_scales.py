"""Scale of each window of a map: as its overlaps have it, and corrected by the sources of metric scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array
from vggt_ros.scale.chain import ScaleMeasurements, ScaleTree, smooth
from vggt_ros.scale.ratios import ScaleRatios, estimate_scale
from vggt_ros.windows.solution import Solution

_BLOCK = 1_000_000_000
"""Duration of a block, nanoseconds: ratios of one source for one window in it share one error."""
_JOINED_SIGMA = 0.05
"""Sigma of the scale of a submap relative to the one that a loop joins it to."""


@dataclass(frozen=True, eq=False)
class WindowScales:
    """Connected windows and their scale.

    Attributes:
        windows: their ids.
        scale: (w,), logarithm of the map units in a unit of each, as it is in the map.
        previous: (w,), the last estimate by the sources, continued to newer windows by their overlaps; else `scale`.
        corrected: (w,), the estimate by the sources now.

    """

    windows: list[int]
    scale: Array
    previous: Array
    corrected: Array

    def correct(self, ratios: ScaleRatios) -> ScaleRatios:
        """Return the ratios as they would be if the windows had their corrected scale."""
        change = dict(zip(self.windows, (self.corrected - self.scale).tolist(), strict=True))
        log = ratios.log - np.array([change[window] for window in ratios.windows.tolist()])
        return ScaleRatios(log, ratios.sigma, ratios.stamps, ratios.windows, ratios.common_sigma)


class WindowScaleEstimator:
    """Keeps the scale of windows by their overlaps, before any correction, and the last estimate by the sources."""

    def __init__(self) -> None:
        """Begin without windows."""
        # Logarithm of the scale of each window by its overlaps, in units of its submap's first window.
        self._overlap_scale: dict[int, float] = {}
        self._anchor: dict[int, int] = {}  # by window, its submap's first window
        self._previous: dict[int, float] = {}  # by window, the last estimate by the sources of its log scale

    def estimate(self, solution: Solution, rows: NDArray[np.int64],
                 ratios_by_source: Sequence[ScaleRatios]) -> WindowScales:
        """Return the scale of windows in the map, and corrected by the sources.

        Args:
            solution: the map.
            rows: keyframes (k,) of it; the result has all windows that are connected to theirs by overlaps.
            ratios_by_source: ratios of each source.

        """
        overlap_to = {edge.second: edge for edge in solution.edges if edge.kind == "overlap"}
        for window in solution.window_ids.tolist():  # each after its parent
            if window not in self._overlap_scale:
                edge = overlap_to.get(window)
                self._anchor[window] = window if edge is None else self._anchor[edge.first]
                self._overlap_scale[window] = 0.0 if edge is None else \
                    self._overlap_scale[edge.first] + float(np.log(edge.first_second.scale))
                if edge is not None and edge.first in self._previous:
                    self._previous[window] = self._previous[edge.first] + float(np.log(edge.first_second.scale))
        anchors = {self._anchor[window] for window in np.unique(solution.windows[rows]).tolist()}
        is_connected = np.array([self._anchor[window] in anchors for window in solution.window_ids.tolist()])
        windows, scale = solution.window_ids[is_connected].tolist(), np.log(solution.window_scale[is_connected])
        row = {window: index for index, window in enumerate(windows)}
        edges = [overlap_to.get(window) for window in windows]
        tree = ScaleTree(np.array([row[edge.first] if edge else 0 for edge in edges], np.int64),
                         np.array([np.sqrt(edge.covariance[6, 6]) if edge else _JOINED_SIGMA for edge in edges]))
        tree.parent[0] = -1
        # Relative scale of submaps is by the loops that join them, of windows inside a submap by their overlaps.
        by_overlaps = np.array([self._overlap_scale[w] + scale[row[self._anchor[w]]] for w in windows])
        previous = np.array([self._previous.get(w, now) for w, now in zip(windows, scale.tolist(), strict=True)])
        joined = ScaleRatios.join(ratios_by_source)
        ratio_row = np.array([row[window] for window in joined.windows.tolist()], np.int64)
        log = joined.log + (scale - by_overlaps)[ratio_row]
        center = estimate_scale(ScaleRatios(log, joined.sigma, joined.stamps, joined.windows))
        if center is None:
            return WindowScales(windows, scale, previous, scale)
        measurements = ScaleMeasurements(ratio_row, log, joined.sigma, *_blocks(ratios_by_source))
        return WindowScales(windows, scale, previous, by_overlaps + smooth(tree, measurements, center.log))

    def record_applied(self, log_scale: Mapping[int, float]) -> None:
        """Note the estimate that the map was rescaled to."""
        self._previous |= log_scale


def _blocks(ratios_by_source: Sequence[ScaleRatios]) -> tuple[NDArray[np.int64], float]:
    """Return the block (n,), 0, 1, ..., of each ratio, by source, second and window; and blocks a second and source."""
    keys = np.concatenate([np.column_stack([np.full(len(ratios), source), ratios.stamps // _BLOCK, ratios.windows])
                           for source, ratios in enumerate(ratios_by_source)])
    blocks = np.asarray(np.unique(keys, axis=0, return_inverse=True)[1], np.int64).ravel()
    return blocks, len(np.unique(blocks)) / len(np.unique(keys[:, :2], axis=0))
