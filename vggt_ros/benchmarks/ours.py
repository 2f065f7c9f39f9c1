"""This package's fusion of made windows: alignment, pose graph, loops."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vggt_ros.alignment import AlignmentRefused, View, align, through
from vggt_ros.benchmarks.fabricate import FakeLoop, FakeWindow
from vggt_ros.benchmarks.rivals import Poses
from vggt_ros.config import AlignmentConfig
from vggt_ros.consensus import Loop
from vggt_ros.geometry import Array, Sim3
from vggt_ros.pose_graph import PoseGraph

_ANYTHING = AlignmentConfig(max_rotation=45.0, max_translation=1.0, max_scale=1.0)
"""Limits of an alignment that verifies nothing."""


@dataclass(eq=False)
class Fusion:
    """Windows fused as `Atlas` and `Slam` do it, without images.

    Attributes:
        verify: whether loops are verified by alignment to both neighbors before the graph hears of them.
        loops_taken: of the loops offered, which the graph believes now; None for those refused by verification.
        update_seconds: of the graph for each window or loop; `align_seconds` of alignment for each.

    """

    verify: bool = True
    graph: PoseGraph = field(default_factory=PoseGraph)
    update_seconds: list[float] = field(default_factory=list)
    align_seconds: list[float] = field(default_factory=list)
    refused: int = 0
    retried: int = 0

    def __post_init__(self) -> None:
        """Begin empty."""
        self._owner: dict[int, tuple[int, Array]] = {}
        self._windows: dict[int, FakeWindow] = {}

    def run(self, windows: Sequence[FakeWindow], loops: Sequence[FakeLoop] = ()) -> tuple[Poses, list[bool]]:
        """Fuse windows and, as soon as both their places are known, loops; returns as the rivals do."""
        waiting, verdicts = list(loops), {}
        for window in windows:
            self.add(window)
            while waiting and waiting[0].second <= window.id:
                verdicts[id(waiting[0])] = self.close(waiting[0])
                waiting.pop(0)
        taken = [loop is not None and loop.taken for loop in (verdicts.get(id(offered)) for offered in loops)]
        return self.poses(), taken

    def add(self, window: FakeWindow) -> None:
        """Attach a window by the keyframes that are known, or begin a submap."""
        known = [k for k in window.views if k in self._owner and self._connected(k)]
        began = time.perf_counter()
        owners = [self._owner[k][0] for k in known]
        reference = max(owners, key=lambda owner: (owners.count(owner), owner), default=-1)
        try:
            alignment = align(self._seen_from(reference, known), window.views, AlignmentConfig())
        except AlignmentRefused:
            if window.again is not None:  # as Slam.step does: another choice of keyframes
                self.retried += 1
                return self.add(window.again)
            self.refused += bool(self._windows)
            self.graph.add_submap(window.id, Sim3.identity())
        else:
            self.align_seconds.append(time.perf_counter() - began)
            began = time.perf_counter()
            self.graph.add_window(window.id, reference, alignment.reference_window, alignment.drift)
            self.update_seconds.append(time.perf_counter() - began)
        self._windows[window.id] = window
        for keyframe, view in window.views.items():
            if keyframe not in known:
                self._owner[keyframe] = window.id, view.camera

    def close(self, loop: FakeLoop) -> Loop | None:
        """Offer a loop to the graph, if both neighbors agree with its joint window; None if they do not."""
        if loop.first not in self._windows or loop.second not in self._windows:
            return None
        limits = AlignmentConfig() if self.verify else _ANYTHING
        try:
            sides = [align(self._windows[w].views, loop.joint.views, limits) for w in (loop.first, loop.second)]
        except AlignmentRefused:
            return None
        relation, covariance = through(sides[0], sides[1])
        began = time.perf_counter()
        verdict = self.graph.add_loop(loop.first, loop.second, relation, covariance)
        self.update_seconds.append(time.perf_counter() - began)
        return verdict

    def poses(self) -> Poses:
        """Return the poses of the keyframes of the largest component."""
        labels = {window: self.graph.component(window) for window in self._windows}
        members = [labels[owner] for owner, _ in self._owner.values()]
        largest = max(set(members), key=members.count)
        return {keyframe: self.graph.map_window[owner].apply_pose(camera)
                for keyframe, (owner, camera) in self._owner.items() if labels[owner] == largest}

    def _connected(self, keyframe: int) -> bool:
        newest = next(reversed(self._windows))
        return self.graph.component(self._owner[keyframe][0]) == self.graph.component(newest)

    def _seen_from(self, reference: int, keyframes: Sequence[int]) -> Mapping[int, View]:
        """Return keyframes as the map has them, in the frame and units of a window."""
        if reference < 0:
            return {}
        reference_map = self.graph.map_window[reference].inverse()
        views = {}
        for keyframe in keyframes:
            owner, camera = self._owner[keyframe]
            place = reference_map @ self.graph.map_window[owner]
            views[keyframe] = View(place.apply_pose(camera), self._windows[owner].views[keyframe].kept, place.scale)
        return views
