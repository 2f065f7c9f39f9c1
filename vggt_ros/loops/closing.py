"""Loop closure: candidates among the places seen before, verified one at a time, and what became of each."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vggt_ros.config import Config
from vggt_ros.features.appearance import Features
from vggt_ros.loops.verification import LoopRefused, TwoViewGeometry, two_view_geometry, verify_loop
from vggt_ros.mapping.atlas import Atlas
from vggt_ros.mapping.map_keyframes import map_keyframes, window_views
from vggt_ros.places.database import PlaceDatabase, gate_by_distance
from vggt_ros.places.keyframe_images import KeyframeImages
from vggt_ros.pose_graph.relative_poses import LoopMeasurement
from vggt_ros.reconstruction.base import ReconstructionRefused, Reconstructor
from vggt_ros.threads import yield_to_tracking
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.solution import Counts, Solution

_LOG = logging.getLogger(__name__)
_WAITING = 12
"""RelocalizationCandidates that are kept for later, those with the most matches."""
_TRIES = 2
"""How often a candidate is verified, each time with other keyframes around the two places."""
_TRIES_OF_PLACES = 4
"""How often two windows are tried to relate, by whichever keyframes."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """Two keyframes that may show the same place, what their features say, and how often that was tried to verify."""

    older: int
    newer: int
    seen: TwoViewGeometry
    tries: int = 0


class LoopCloser:
    """Finds places that are seen again, and relates their windows in the graph.

    Attributes:
        places: the keyframes' descriptors.
        album: their images.
        waiting: candidates that wait to be verified.
        refused: pairs of windows of candidates that were not verified, the newest ones.

    """

    def __init__(self, config: Config, reconstructor: Reconstructor) -> None:
        """Close loops as `config` says; places are verified by the reconstructor."""
        self._config, self._reconstructor = config, reconstructor
        self.places, self.album = PlaceDatabase(), KeyframeImages()
        self.waiting: list[Candidate] = []
        self.refused: deque[tuple[int, int]] = deque(maxlen=_WAITING)
        self._tries: Counter[tuple[int, int]] = Counter()
        self._closed: set[tuple[int, int]] = set()  # pairs of windows, and of those next to them

    def look(self, keyframes: Sequence[Keyframe], features: Sequence[Features], atlas: Atlas, solution: Solution,
             counts: Counts) -> None:
        """Note newly solved keyframes with their local features, and which places seen before they may show."""
        for keyframe, local in zip(keyframes, features, strict=True):
            yield_to_tracking()
            self.album.add(keyframe, local)
            self._seek(keyframe.id, atlas, solution, counts)
            look = atlas.keyframes[keyframe.id].place_descriptor
            assert look is not None
            self.places.add(keyframe.id, look)

    def close(self, window: int, atlas: Atlas, counts: Counts) -> str:
        """Verify the best candidate that waits; return what became of it, empty if there is none."""
        self.waiting = [c for c in self.waiting if self._is_open(c, atlas)]
        if not self.waiting:
            return ""
        candidate = max(self.waiting, key=lambda c: (-c.tries, c.seen.inliers))
        self.waiting.remove(candidate)
        first, second = atlas.window_of(candidate.older), atlas.window_of(candidate.newer)
        self._tries[first, second] += 1
        what = f"loop of keyframes {candidate.older} and {candidate.newer} ({candidate.seen.inliers} matches)"
        try:
            relation = self._verify(window, candidate, atlas)
        except LoopRefused as refusal:
            counts.loops_refused += 1
            self.refused.append((first, second))
            if candidate.tries + 1 < _TRIES:
                self.waiting.append(replace(candidate, tries=candidate.tries + 1))
            _LOG.info("%s refused: %s", what, refusal)
            return f"{what} refused: {refusal}"
        loop = atlas.close_loop(candidate.older, candidate.newer, relation)
        self._closed |= {(first + i, second + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
        counts.loops_refused += not loop.accepted
        _LOG.info("%s %s: %s", what, "taken" if loop.accepted else "refused", loop.reason)
        return f"{what} {'taken' if loop.accepted else 'refused'}: {loop.reason}"

    def forget(self, keyframe: int) -> None:
        """Let go of a keyframe: it will not be found any more."""
        self.places.remove(keyframe)
        self.album.remove(keyframe)

    def _seek(self, newer: int, atlas: Atlas, solution: Solution, counts: Counts) -> None:
        """Add the best candidate for a new keyframe, if there is one, to those that wait."""
        kept, row, settings = atlas.keyframes[newer], solution.index(newer), self._config.loops
        if row is None or kept.place_descriptor is None:
            return
        similar = self.places.query(kept.place_descriptor, settings.candidates, before=newer - settings.min_gap)
        depth = kept.median_depth * float(solution.scale[row])
        best: Candidate | None = None
        for older in gate_by_distance(newer, similar, solution, depth, settings).tolist():
            if older not in self.album or older not in atlas.keyframes:
                continue
            yield_to_tracking()
            seen = two_view_geometry(
                atlas.keyframes[older],
                self.album.features(older),
                kept,
                self.album.features(newer),
                settings.min_matches,
            )
            if seen is not None and (best is None or seen.inliers > best.seen.inliers):
                best = Candidate(older, newer, seen)
        if best is not None and self._is_open(best, atlas):
            counts.loop_candidates += 1
            self.waiting = sorted([*self.waiting, best], key=lambda c: -c.seen.inliers)[:_WAITING]

    def _is_open(self, candidate: Candidate, atlas: Atlas) -> bool:
        """Return True if the windows of a candidate are not related already, nor tried too often."""
        if candidate.older not in self.album or candidate.newer not in self.album:
            return False
        first, second = atlas.window_of(candidate.older), atlas.window_of(candidate.newer)
        return first != second and (first, second) not in self._closed and self._tries[first, second] < _TRIES_OF_PLACES

    def _verify(self, window: int, candidate: Candidate, atlas: Atlas) -> LoopMeasurement:
        """Reconstruct the two places together; raises LoopRefused."""
        sides = [self._around(keyframe, atlas, 1 + candidate.tries) for keyframe in (candidate.older, candidate.newer)]
        sides[1] = [keyframe for keyframe in sides[1] if keyframe not in sides[0]]
        # The two most alike meet in the middle, so that what both see is followed from one to the other.
        order = [*sides[0][::-1], *sides[1]]
        joint = Window(window, tuple(self.album.keyframe(keyframe) for keyframe in order))
        try:
            geometry = self._reconstructor.reconstruct(joint)
        except ReconstructionRefused as refusal:
            raise LoopRefused(f"not reconstructed together: {refusal}") from refusal
        views = window_views(geometry, map_keyframes(joint, geometry, self._config.map.kept_width))
        older, newer = (atlas.views(side, side[0]) for side in sides)
        return verify_loop(
            older, newer, views, candidate.seen, (candidate.older, candidate.newer), self._config.alignment
        )

    def _around(self, keyframe: int, atlas: Atlas, step: int) -> list[int]:
        """Return half a window of keyframes around one, the nearest first, every `step`-th."""
        half = max(2, self._config.windows.size // 2)
        near = sorted((k for k in atlas.chain(keyframe, half * step) if k in self.album),
                      key=lambda k: (abs(k - keyframe), k))
        return near[::step][:half]
