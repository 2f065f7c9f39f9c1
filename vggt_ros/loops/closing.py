"""Loop closure: candidates by place recognition, verified one at a time."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vggt_ros.config import Config
from vggt_ros.features.appearance import Features
from vggt_ros.loops.verification import LoopRejected, TwoViewGeometry, two_view_geometry, verify_loop
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.mapping.submaps.map_keyframes import map_keyframes, window_views
from vggt_ros.places.database import PlaceDatabase, gate_by_distance
from vggt_ros.places.keyframe_images import KeyframeImages
from vggt_ros.pose_graph.relative_poses import LoopMeasurement
from vggt_ros.reconstruction.base import ReconstructionRefused, Reconstructor
from vggt_ros.threads import yield_to_tracking
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.solution import Counts, Solution

_LOG = logging.getLogger(__name__)
_MAX_PENDING = 12
"""Most candidates that wait for verification, those with the most matches; and most rejected ones that are listed."""
_MAX_ATTEMPTS = 2
"""How often a candidate is verified, each time with other keyframes around the two places."""
_CERTAIN = 4
"""Matches, over the fewest of a candidate, from which less similar keyframes are not compared any more."""
_MAX_WINDOW_PAIR_ATTEMPTS = 4
"""How often candidates between the same two windows are verified."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """Two keyframes that may show the same place, their two-view geometry, and how often it was tried to verify."""

    older: int
    newer: int
    two_view: TwoViewGeometry
    attempts: int = 0


class LoopCloser:
    """Finds places that are seen again, and adds verified loops to the graph.

    Attributes:
        places: the place descriptors of the keyframes.
        images: the keyframes' images.
        pending: candidates that wait for verification.
        rejected: pairs of windows of candidates that verification rejected, the newest ones.

    """

    def __init__(self, config: Config, reconstructor: Reconstructor) -> None:
        """Close loops with the settings of `config`; the reconstructor verifies candidates."""
        self._config, self._reconstructor = config, reconstructor
        self.places, self.images = PlaceDatabase(), KeyframeImages()
        self.pending: list[Candidate] = []
        self.rejected: deque[tuple[int, int]] = deque(maxlen=_MAX_PENDING)
        self._attempts: Counter[tuple[int, int]] = Counter()
        self._closed: set[tuple[int, int]] = set()  # pairs of windows with a loop; if accepted, of those next to them

    def add_keyframes(self, keyframes: Sequence[Keyframe], features: Sequence[Features], atlas: Atlas,
                      solution: Solution, counts: Counts) -> None:
        """Add newly solved keyframes with their local features, and look for a loop candidate for each."""
        for keyframe, local in zip(keyframes, features, strict=True):
            yield_to_tracking()
            self.images.add(keyframe, local)
            self._find_candidate(keyframe.id, atlas, solution, counts)
            descriptor = atlas.keyframes[keyframe.id].place_descriptor
            assert descriptor is not None
            self.places.add(keyframe.id, descriptor)

    def close(self, window: int, atlas: Atlas, counts: Counts) -> str:
        """Verify the best pending candidate; return a message of the result, empty if there is none."""
        self.pending = [c for c in self.pending if self._is_eligible(c, atlas)]
        if not self.pending:
            return ""
        candidate = max(self.pending, key=lambda c: (-c.attempts, c.two_view.inliers))
        self.pending.remove(candidate)
        first, second = atlas.window_of(candidate.older), atlas.window_of(candidate.newer)
        self._attempts[first, second] += 1
        name = f"loop of keyframes {candidate.older} and {candidate.newer} ({candidate.two_view.inliers} matches)"
        try:
            measurement = self._verify(window, candidate, atlas)
        except LoopRejected as rejection:
            counts.loops_refused += 1
            self.rejected.append((first, second))
            if candidate.attempts + 1 < _MAX_ATTEMPTS:
                self.pending.append(replace(candidate, attempts=candidate.attempts + 1))
            _LOG.info("%s not accepted: %s", name, rejection)
            return f"{name} not accepted: {rejection}"
        loop = atlas.close_loop(candidate.older, candidate.newer, measurement)
        # The graph keeps a loop that it does not accept: the same windows tell it nothing new, those next to them do.
        near = (-1, 0, 1) if loop.accepted else (0,)
        self._closed |= {(first + i, second + j) for i in near for j in near}
        counts.loops_refused += not loop.accepted
        _LOG.info("%s %s: %s", name, "accepted" if loop.accepted else "not accepted", loop.reason)
        return f"{name} {'accepted' if loop.accepted else 'not accepted'}: {loop.reason}"

    def remove(self, keyframes: Iterable[int]) -> None:
        """Remove keyframes, so that they are no longer candidates."""
        for keyframe in keyframes:
            self.places.remove(keyframe)
            self.images.remove(keyframe)

    def _find_candidate(self, newer: int, atlas: Atlas, solution: Solution, counts: Counts) -> None:
        """Add the best candidate for a new keyframe, if there is one, to the pending ones."""
        keyframe, row, settings = atlas.keyframes[newer], solution.index(newer), self._config.loops
        if row is None or keyframe.place_descriptor is None:
            return
        similar = self.places.query(keyframe.place_descriptor, settings.candidates, before=newer - settings.min_gap)
        depth = keyframe.median_depth * float(solution.scale[row])
        best: Candidate | None = None
        near = [older for older in gate_by_distance(newer, similar, solution, depth, settings).tolist()
                if older in self.images and older in atlas.keyframes]
        if not any(self._is_open(older, newer, atlas) for older in near):  # whichever is the best will not be verified
            return
        for older in near:
            yield_to_tracking()
            two_view = two_view_geometry(
                atlas.keyframes[older],
                self.images.features(older),
                keyframe,
                self.images.features(newer),
                # Fewer than the best one has are not looked for.
                settings.min_matches if best is None else best.two_view.inliers + 1,
            )
            if two_view is not None:
                best = Candidate(older, newer, two_view)
                if two_view.inliers >= _CERTAIN * settings.min_matches:  # the most similar ones come first
                    break
        if best is not None and self._is_eligible(best, atlas):
            counts.loop_candidates += 1
            self.pending = sorted([*self.pending, best], key=lambda c: -c.two_view.inliers)[:_MAX_PENDING]

    def _is_eligible(self, candidate: Candidate, atlas: Atlas) -> bool:
        """Return whether the images of a candidate are stored, and its windows neither related nor tried too often."""
        return (candidate.older in self.images and candidate.newer in self.images
                and self._is_open(candidate.older, candidate.newer, atlas))

    def _is_open(self, older: int, newer: int, atlas: Atlas) -> bool:
        """Return whether a loop between the windows of two keyframes may be measured, which are not the same one."""
        first, second = atlas.window_of(older), atlas.window_of(newer)
        return (first != second and (first, second) not in self._closed
                and self._attempts[first, second] < _MAX_WINDOW_PAIR_ATTEMPTS)

    def _verify(self, window: int, candidate: Candidate, atlas: Atlas) -> LoopMeasurement:
        """Reconstruct the two places together; raises LoopRejected."""
        sides = [self._neighbors(keyframe, atlas, 1 + candidate.attempts)
                 for keyframe in (candidate.older, candidate.newer)]
        sides[1] = [keyframe for keyframe in sides[1] if keyframe not in sides[0]]
        # The two most similar keyframes are next to each other in the middle, so that features track across both sides.
        order = [*sides[0][::-1], *sides[1]]
        joint = Window(window, tuple(self.images.keyframe(keyframe) for keyframe in order))
        try:
            geometry = self._reconstructor.reconstruct(joint)
        except ReconstructionRefused as refusal:
            raise LoopRejected(f"the joint reconstruction of both places failed: {refusal}") from refusal
        views = window_views(geometry, map_keyframes(joint, geometry, self._config.map.kept_width,
                                                      lambda keyframe: False))
        older, newer = (atlas.views(side, side[0]) for side in sides)
        pair = candidate.older, candidate.newer
        measurement = verify_loop(older, newer, views, candidate.two_view, pair, self._config.alignment,
                                  atlas.drift(*pair))
        return replace(measurement, tracks=geometry.tracks)

    def _neighbors(self, keyframe: int, atlas: Atlas, step: int) -> list[int]:
        """Return half a window of keyframes around one, the nearest first, every `step`-th."""
        half = max(2, self._config.windows.size // 2)
        near = sorted((k for k in atlas.temporal_neighbors(keyframe, half * step) if k in self.images),
                      key=lambda k: (abs(k - keyframe), k))
        return near[::step][:half]
