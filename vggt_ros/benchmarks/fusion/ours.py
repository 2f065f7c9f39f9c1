"""This package's fusion of simulated windows: alignment, pose graph, loops."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vggt_ros.benchmarks.fusion.published_schemes import Poses
from vggt_ros.benchmarks.fusion.simulated_windows import LENGTH, OVERLAP, SimulatedLoop, SimulatedWindow
from vggt_ros.config import AlignmentConfig
from vggt_ros.geometry.poses import Sim3
from vggt_ros.pose_graph.consistency import Loop
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.pose_graph.relative_poses import RelativePose, loop_relative_pose, relative_poses
from vggt_ros.windows.alignment import AlignmentRefused, View, align, guess_alignment
from vggt_ros.windows.solution import Edge

_NO_LIMITS = AlignmentConfig(max_rotation=45.0, max_translation=1.0, max_scale=1.0)
"""Limits of an alignment without verification."""


@dataclass(eq=False)
class Fusion:
    """Fuses windows as `Atlas` and `Slam` do, without images.

    Attributes:
        verify: whether loops are verified by alignment at both places before they are added to the graph.
        update_seconds, align_seconds: of the graph for each window or loop, and of alignment for each window.
        refused, retried: number of windows that began a submap, and of second attempts.

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
        """Fuse windows, and loops as soon as both places are known; returns as the published schemes do."""
        pending, results = list(loops), {}
        for window in windows:
            self.add(window)
            while pending and pending[0].second <= window.id:
                results[id(pending[0])] = self.add_loop(pending[0])
                pending.pop(0)
        accepted = [loop is not None and loop.accepted for loop in (results.get(id(offered)) for offered in loops)]
        return self.poses(), accepted

    def add(self, window: SimulatedWindow) -> None:
        """Attach a window by its shared keyframes, or begin a submap."""
        shared = [k for k in window.views if k in self._views and self._connected(k)]
        known = self._views_from(shared[-1], shared) if shared else {}
        began = time.perf_counter()
        alignment = None
        try:
            alignment = align(known, window.views, AlignmentConfig())
        except AlignmentRefused:
            if window.retry is not None:  # as in Slam.step: another choice of keyframes
                self.retried += 1
                return self.add(window.retry)
            self.refused += bool(self._windows)
            first = next(iter(window.views))
            guess = guess_alignment(known, window.views, AlignmentConfig())
            if guess is None:
                self.graph.add_submap(first, Sim3.identity())
            else:
                reference, newest_window, covariance = guess
                self.graph.add_submap(first, self.graph.map_node[shared[-1]] @ newest_window, reference, covariance)
            known, self._views[first] = {}, window.views[first]
        self.align_seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        known_edges: list[Edge] = []
        new_edges: list[Edge] = []
        for relative_pose in relative_poses(window.views, known, alignment):
            (known_edges if relative_pose.known else new_edges).append(_overlap(relative_pose))
        self.graph.merge(known_edges)
        self.graph.add_nodes(new_edges)
        self._views |= {edge.second: window.views[edge.second] for edge in new_edges}
        self.update_seconds.append(time.perf_counter() - began)
        self._windows[window.id] = window
        self._newest = next(reversed(window.views))

    def add_loop(self, loop: SimulatedLoop) -> Loop | None:
        """Add a loop to the graph if its joint window can be aligned at both places; None if not."""
        limits = AlignmentConfig() if self.verify else _NO_LIMITS
        pair = loop.sides[0][-1], loop.sides[1][0]
        if not self._views.keys() >= loop.joint.views.keys():
            return None
        sides = []
        try:
            for end, side in zip(pair, loop.sides, strict=True):
                known = self._views_from(end, side)
                sides.append((known, align(known, loop.joint.views, limits)))
        except AlignmentRefused:
            return None
        began = time.perf_counter()
        edges = [_overlap(relative_pose) for known, alignment in sides
                 for relative_pose in relative_poses({k: loop.joint.views[k] for k in known}, known, alignment)]
        result = self.graph.add_loop(*pair, *loop_relative_pose(loop.joint.views, pair, sides), edges)
        self.update_seconds.append(time.perf_counter() - began)
        return result

    def poses(self) -> Poses:
        """Return the poses of the keyframes of the largest component."""
        labels = {keyframe: self.graph.component(keyframe) for keyframe in self._views}
        members = list(labels.values())
        largest = max(set(members), key=members.count)
        return {keyframe: self.graph.map_node[keyframe].apply_pose(np.eye(4))
                for keyframe, label in labels.items() if label == largest}

    def _connected(self, keyframe: int) -> bool:
        return self.graph.component(keyframe) == self.graph.component(self._newest)

    def _views_from(self, reference: int, keyframes: Sequence[int]) -> Mapping[int, View]:
        """Return keyframes as the map has them, in the frame and at the scale of one of them."""
        reference_map, views = self.graph.map_node[reference].inverse(), {}
        for keyframe in keyframes:
            reference_keyframe = reference_map @ self.graph.map_node[keyframe]
            views[keyframe] = View(reference_keyframe.apply_pose(np.eye(4)), self._views[keyframe].keyframe,
                                   reference_keyframe.scale)
        return views


def _overlap(relative_pose: RelativePose) -> Edge:
    """Return a relative pose as an edge of nodes, which are keyframes here."""
    return Edge(relative_pose.first, relative_pose.second, "overlap", relative_pose.first_second,
                relative_pose.covariance)
