"""From a window of images to its place on the map, and what is tried when that is refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vggt_ros.config import Config
from vggt_ros.mapping.atlas import Atlas
from vggt_ros.mapping.window_relocalization import WindowRelocalizer
from vggt_ros.reconstruction.base import ReconstructionRefused, Reconstructor, WindowGeometry
from vggt_ros.windows.alignment import AlignmentRefused
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.solution import Solution

_LOG = logging.getLogger(__name__)


@dataclass
class Placement:
    """What became of a window.

    Attributes:
        refusals: why it was refused, try by try.
        failed: whether no try was taken.
        fresh: whether it began a submap for that.
        rejoined: what became of joining its submap to another one, if that was tried.
        seconds: how long reconstruction and alignment took.
        report: the reconstructor's figures.

    """

    refusals: list[str] = field(default_factory=list)
    failed: bool = False
    fresh: bool = False
    rejoined: str = ""
    seconds: float = 0.0
    report: Mapping[str, float] = field(default_factory=dict)


class WindowPlacer:
    """Reconstructs windows and hangs them on an atlas.

    Attributes:
        recent: the newest keyframes, by id: those whose images are still there.

    """

    def __init__(self, config: Config, reconstructor: Reconstructor, atlas: Atlas) -> None:
        """Begin without keyframes."""
        self._config, self._reconstructor, self._atlas = config, reconstructor, atlas
        self._finder = WindowRelocalizer(config.tracking)
        self.recent: dict[int, Keyframe] = {}

    def place(self, window: Window, solution: Solution) -> Placement:
        """Reconstruct a window and hang it on the map, whose newest `solution` is given.

        A refusal is met with another choice of keyframes; after a second one the window begins a new submap, or, if
        it could not be reconstructed at all, is given up, and the next one bridges the gap or begins a submap.
        """
        attempt, loose = Placement(), None
        for keyframe in sorted(self.recent)[: -2 * self._config.windows.size]:
            del self.recent[keyframe]
        self.recent.update({keyframe.id: keyframe for keyframe in window.keyframes})
        for chosen in self._choices(window):
            started = time.perf_counter()
            try:
                geometry = self._reconstructor.reconstruct(chosen)
                attempt.report = geometry.report
                if self._atlas.submap < 0:
                    self._atlas.begin_submap(chosen, geometry)
                    break
                loose = loose or (chosen, geometry)
                if any(self._atlas.knows(k) for k in geometry.keyframe_ids):
                    self._atlas.attach(chosen, geometry)
                    attempt.rejoined = self._rejoin(chosen, geometry, solution)
                else:
                    self._atlas.join(chosen, geometry, self._finder.find(chosen, solution), solution)
                break
            except (ReconstructionRefused, AlignmentRefused) as refusal:
                attempt.refusals.append(str(refusal))
            finally:
                attempt.seconds += time.perf_counter() - started
        else:
            attempt.failed = True
            if loose is not None:
                attempt.fresh = True
                self._atlas.begin_submap(*loose)
        return attempt

    def _choices(self, window: Window) -> Iterator[Window]:
        """Yield the window, then another choice of keyframes with more overlap and baseline.

        That one has more of the solved keyframes and the new ones thinned, those of windows that were given up among
        them, so that the chain goes on across a gap. The shared ones and those that the next window will share stay.
        """
        yield window
        size, overlap = self._config.windows.size, self._config.windows.overlap
        recent = sorted(self.recent)
        known = [k for k in recent if self._atlas.knows(k)]
        new = [k for k in recent if k not in known]
        kept = set(known[-overlap:]) | set(known[:-overlap][::-2][:overlap]) | set(new[-overlap:]) | set(window.shared)
        middle = [k for k in new if k not in kept]
        spare = max(1, size + overlap - len(kept))
        kept |= set(middle[:: max(1, -(-len(middle) // spare))])
        chosen = tuple(self.recent[k] for k in sorted(kept))
        if kept != set(window.ids):
            yield Window(window.id, chosen, tuple(k for k in sorted(kept) if self._atlas.knows(k)))

    def _rejoin(self, window: Window, geometry: WindowGeometry, solution: Solution) -> str:
        """Join the submap that grows to the rest of the map, if nothing else does and images of it are found there."""
        if not self._config.loops.enabled:
            return ""
        rows = self._atlas.elsewhere(solution)
        places = self._finder.find(window, solution, rows) if len(rows) else {}
        if not places:
            return ""
        apart = self._atlas.submap
        what = f"submap {apart}, {len(places)} images of which are found in the map,"
        try:
            loop = self._atlas.rejoin(window, geometry, places, solution)
            said = f"{what} {'joins it' if loop.accepted else f'is refused: {loop.reason}'}"
        except AlignmentRefused as refusal:
            said = f"{what} is refused: {refusal}"
        _LOG.info(said)
        return said
