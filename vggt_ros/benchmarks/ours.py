"""This package's fusion of made windows: alignment, pose graph, loops."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vggt_ros.benchmarks.published_schemes import Poses
from vggt_ros.benchmarks.simulated_windows import LENGTH, OVERLAP, SimulatedLoop, SimulatedWindow
from vggt_ros.config import AlignmentConfig
from vggt_ros.geometry.poses import Sim3
from vggt_ros.pose_graph.consistency import Loop
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.pose_graph.relative_poses import RelativePose, loop_relative_pose, relative_poses
from vggt_ros.windows.alignment import AlignmentRefused, View, align, guess_alignment
from vggt_ros.windows.solution import Edge

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
    graph: PoseGraph = field(default_factory=lambda: PoseGraph(LENGTH - OVERLAP))
    update_seconds: list[float] = field(default_factory=list)
    align_seconds: list[float] = field(default_factory=list)
    refused: int = 0
    retried: int = 0

    def __post_init__(self) -> None:
        """Begin empty."""
        self._views: dict[int, View] = {}  # of keyframes, by the windows that placed them
        self._newest = -1
        self._windows: dict[int, SimulatedWindow] = {}

    def run(self, windows: Sequence[SimulatedWindow], loops: Sequence[SimulatedLoop] = ()) -> tuple[Poses, list[bool]]:
        """Fuse windows and, as soon as both their places are known, loops; returns as the rivals do."""
        waiting, verdicts = list(loops), {}
        for window in windows:
            self.add(window)
            while waiting and waiting[0].second <= window.id:
                verdicts[id(waiting[0])] = self.close(waiting[0])
                waiting.pop(0)
        taken = [loop is not None and loop.accepted for loop in (verdicts.get(id(offered)) for offered in loops)]
        return self.poses(), taken

    def add(self, window: SimulatedWindow) -> None:
        """Attach a window by the keyframes that are known, or begin a submap."""
        shared = [k for k in window.views if k in self._views and self._connected(k)]
        known = self._seen_from(shared[-1], shared) if shared else {}
        began = time.perf_counter()
        alignment = None
        try:
            alignment = align(known, window.views, AlignmentConfig())
        except AlignmentRefused:
            if window.again is not None:  # as Slam.step does: another choice of keyframes
                self.retried += 1
                return self.add(window.again)
            self.refused += bool(self._windows)
            first = next(iter(window.views))
            supposed = guess_alignment(known, window.views, AlignmentConfig())
            if supposed is None:
                self.graph.add_submap(first, Sim3.identity())
            else:
                reference, place, covariance = supposed
                self.graph.add_submap(first, self.graph.map_node[shared[-1]] @ place, reference, covariance)
            known, self._views[first] = {}, window.views[first]
        self.align_seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        again: list[Edge] = []
        new: list[Edge] = []
        for step in relative_poses(window.views, known, alignment):
            (again if step.known else new).append(_overlap(step))
        self.graph.merge(again)
        self.graph.add_nodes(new)
        self._views |= {edge.second: window.views[edge.second] for edge in new}
        self.update_seconds.append(time.perf_counter() - began)
        self._windows[window.id] = window
        self._newest = next(reversed(window.views))

    def close(self, loop: SimulatedLoop) -> Loop | None:
        """Offer a loop to the graph, if both neighbors agree with its joint window; None if they do not."""
        limits = AlignmentConfig() if self.verify else _ANYTHING
        pair = loop.sides[0][-1], loop.sides[1][0]
        if not self._views.keys() >= loop.joint.views.keys():
            return None
        sides = []
        try:
            for end, side in zip(pair, loop.sides, strict=True):
                known = self._seen_from(end, side)
                sides.append((known, align(known, loop.joint.views, limits)))
        except AlignmentRefused:
            return None
        began = time.perf_counter()
        between = [_overlap(step) for known, alignment in sides
                   for step in relative_poses({k: loop.joint.views[k] for k in known}, known, alignment)]
        verdict = self.graph.add_loop(*pair, *loop_relative_pose(loop.joint.views, pair, sides), between)
        self.update_seconds.append(time.perf_counter() - began)
        return verdict

    def poses(self) -> Poses:
        """Return the poses of the keyframes of the largest component."""
        labels = {keyframe: self.graph.component(keyframe) for keyframe in self._views}
        members = list(labels.values())
        largest = max(set(members), key=members.count)
        return {keyframe: self.graph.map_node[keyframe].apply_pose(np.eye(4))
                for keyframe, label in labels.items() if label == largest}

    def _connected(self, keyframe: int) -> bool:
        return self.graph.component(keyframe) == self.graph.component(self._newest)

    def _seen_from(self, reference: int, keyframes: Sequence[int]) -> Mapping[int, View]:
        """Return keyframes as the map has them, in the frame and units of one of them."""
        reference_map, views = self.graph.map_node[reference].inverse(), {}
        for keyframe in keyframes:
            place = reference_map @ self.graph.map_node[keyframe]
            views[keyframe] = View(place.apply_pose(np.eye(4)), self._views[keyframe].keyframe, place.scale)
        return views


def _overlap(step: RelativePose) -> Edge:
    """Return a step as a relation of nodes, which are keyframes here."""
    return Edge(step.first, step.second, "overlap", step.first_second, step.covariance)
