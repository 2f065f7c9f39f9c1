"""Placing windows of images in the map: reconstruction, alignment, and what is tried when one of them fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from vggt_ros.config import Config
from vggt_ros.features.description import describer
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.mapping.submaps.undo import undone_on_error
from vggt_ros.mapping.submaps.window_relocalization import WindowRelocalizer
from vggt_ros.reconstruction.base import ReconstructionRefused, Reconstructor, WindowGeometry
from vggt_ros.windows.alignment import AlignmentRefused
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.solution import Counts, Solution

_LOG = logging.getLogger(__name__)


@dataclass
class Placement:
    """The result of placing a window.

    Attributes:
        refusals: why reconstruction or alignment refused it, one entry per attempt.
        failed: whether all attempts were refused.
        new_submap: whether it began a submap because of that.
        join_result: message of the attempt to join its submap to another one, empty if that was not tried.
        seconds: how long reconstruction and alignment took.
        report: the reconstructor's figures.
        notes: what the reconstructor says of the window.

    """

    refusals: list[str] = field(default_factory=list)
    failed: bool = False
    new_submap: bool = False
    join_result: str = ""
    seconds: float = 0.0
    report: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def add_to(self, counts: Counts) -> None:
        """Count the window."""
        counts.windows, counts.refused = counts.windows + 1, counts.refused + self.failed
        counts.retried += bool(self.refusals)
        counts.turned += 0 if self.failed else int(self.report.get("turned", 0))


class WindowPlacer:
    """Reconstructs windows and adds them to an atlas.

    Attributes:
        recent: the newest keyframes with their full images, by id.

    """

    def __init__(self, config: Config, reconstructor: Reconstructor, atlas: Atlas) -> None:
        """Begin without keyframes."""
        self._config, self._reconstructor, self._atlas = config, reconstructor, atlas
        atlas.describe = describer(reconstructor)
        self._relocalizer = WindowRelocalizer(config.tracking)
        self.recent: dict[int, Keyframe] = {}

    def place(self, window: Window, solution: Solution) -> Placement:
        """Reconstruct a window and add it to the map, whose newest `solution` is given.

        After a refusal, another choice of keyframes is tried. After a second one the window begins a new submap. If it
        could not be reconstructed at all, it is dropped, and the next window bridges the gap or begins a submap. After
        an error the map is as before.
        """
        with undone_on_error(self._atlas):
            return self._place(window, solution)

    def _place(self, window: Window, solution: Solution) -> Placement:
        placement, unattached = Placement(), None
        for keyframe in sorted(self.recent)[: -2 * self._config.windows.size]:
            del self.recent[keyframe]
        self.recent.update({keyframe.id: keyframe for keyframe in window.keyframes})
        for choice in self._keyframe_choices(window):
            started, choice = time.perf_counter(), replace(choice, earlier=tuple(self.recent))
            try:
                geometry = self._reconstructor.reconstruct(choice)
                placement.report, placement.notes = geometry.report, geometry.notes
                choice = replace(choice, keyframes=tuple(self.recent[k] for k in sorted({*choice.ids,
                                                                                         *geometry.keyframe_ids})))
                if self._atlas.current_submap < 0:
                    self._begin_submap(choice, geometry)
                    break
                if unattached is None and np.isfinite(geometry.depth).any():  # a turn on the spot alone begins nothing
                    unattached = choice, geometry
                if any(self._atlas.is_connected(k) for k in geometry.keyframe_ids):
                    self._atlas.attach(choice, geometry)
                    placement.join_result = self._join_submap(choice, geometry, solution)
                else:
                    self._atlas.attach_relocalized(choice, geometry, self._relocalizer.find(choice, solution), solution)
                self._atlas.tracks.add(geometry.tracks)
                break
            except (ReconstructionRefused, AlignmentRefused) as refusal:
                placement.refusals.append(str(refusal))
            finally:
                placement.seconds += time.perf_counter() - started
        else:
            placement.failed = True
            if unattached is not None:
                placement.new_submap = True
                self._begin_submap(*unattached)
        return placement

    def _begin_submap(self, window: Window, geometry: WindowGeometry) -> None:
        self._atlas.begin_submap(window, geometry)
        self._atlas.tracks.add(geometry.tracks)

    def _keyframe_choices(self, window: Window) -> Iterator[Window]:
        """Yield the window, then another choice of keyframes with more overlap and baseline.

        The second choice has more of the solved keyframes, and every n-th of the new ones, those of dropped windows
        included, so that the chain continues across a gap. The shared keyframes and those that the next window will
        share are always in it.
        """
        yield window
        size, overlap = self._config.windows.size, self._config.windows.overlap
        recent = sorted(self.recent)
        known = [k for k in recent if self._atlas.is_connected(k)]
        new = [k for k in recent if k not in known]
        chosen = (set(known[-overlap:]) | set(known[:-overlap][::-2][:overlap]) | set(new[-overlap:])
                  | set(window.shared))
        middle = [k for k in new if k not in chosen]
        spare = max(1, size + overlap - len(chosen))
        chosen |= set(middle[:: max(1, -(-len(middle) // spare))])
        keyframes = tuple(self.recent[k] for k in sorted(chosen))
        if chosen != set(window.ids):
            yield Window(window.id, keyframes, tuple(k for k in sorted(chosen) if self._atlas.is_connected(k)))

    def _join_submap(self, window: Window, geometry: WindowGeometry, solution: Solution) -> str:
        """Join the current submap to an unconnected one in which the window's images are found; return a message."""
        if not self._config.loops.enabled:
            return ""
        rows = self._atlas.unconnected_rows(solution)
        found = self._relocalizer.find(window, solution, rows) if len(rows) else {}
        if not found:
            return ""
        submap = self._atlas.current_submap
        name = f"submap {submap}, {len(found)} images of which were found in the rest of the map,"
        try:
            loop = self._atlas.close_loop_relocalized(window, geometry, found, solution)
            message = f"{name} {'joins it' if loop.accepted else f'does not join it: {loop.reason}'}"
        except AlignmentRefused as refusal:
            message = f"{name} does not join it: {refusal}"
        _LOG.info(message)
        return message
