"""Solved keyframes as nodes of the pose graph, in submaps, each placed by a window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.geometry.sim3 import scales, to_matrix, transported
from vggt_ros.mapping.window_edges import WindowEdges
from vggt_ros.pose_graph.consistency import Loop
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.pose_graph.relative_poses import LoopMeasurement, RelativePose
from vggt_ros.storage.map_packing import pack_edges, pack_similarities, unpack_edges, unpack_similarities
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.windows.solution import Edge, MapKeyframe

_SPARE = 1.25
"""Nodes of the graph for each keyframe beyond which those of released keyframes are marginalized."""
_SAME = Sim3.identity()


@dataclass(frozen=True, eq=False)
class _Placed:
    """A solved keyframe: its submap, its node in the graph, and its pose there.

    A keyframe is a node of its own, but for maps of older versions, where a window is one.
    """

    stamp: int
    submap: int
    node: int
    node_camera: Sim3 = _SAME


class KeyframeGraph:
    """Which node of the pose graph each keyframe is, and the submap and window that it came with.

    Attributes:
        labels: of each submap, the oldest one that loops connect it with.

    """

    def __init__(self, stride: int) -> None:
        """Begin empty; `stride` new keyframes come with each window."""
        self._graph = PoseGraph(stride)
        self._links = WindowEdges()
        self._placed: dict[int, _Placed] = {}
        self._pivot: dict[int, Array] = {}  # of a node, the point that stays in place when its window is rescaled
        self.labels: list[int] = []

    def __len__(self) -> int:
        """Return the number of keyframes."""
        return len(self._placed)

    def __contains__(self, keyframe: int) -> bool:
        """Return True if a keyframe is solved."""
        return keyframe in self._placed

    @property
    def ids(self) -> list[int]:
        """The solved keyframes, rising."""
        return sorted(self._placed)

    @property
    def loops(self) -> int:
        """How many loops the map was bent by, those that the overlaps have taken over among them."""
        return self._graph.settled + sum(loop.accepted for loop in self._graph.loops)

    def submap(self, keyframe: int) -> int:
        """Return the submap in which a keyframe was solved."""
        return self._placed[keyframe].submap

    def window(self, keyframe: int) -> int:
        """Return the window that placed a keyframe."""
        return self._links.window[self._placed[keyframe].node]

    def pose(self, keyframe: int) -> Sim3:
        """Return `map_camera`, whose scale is map units in a unit of the keyframe's depth."""
        placed = self._placed[keyframe]
        return self._graph.map_node[placed.node] @ placed.node_camera

    def near(self, keyframe: int, count: int) -> list[int]:
        """Return the keyframes of one's submap that came at most `count` before or after it."""
        submap = self._placed[keyframe].submap
        return [k for k in range(keyframe - count, keyframe + count + 1)
                if k in self._placed and self._placed[k].submap == submap]

    def add(self, keyframe: MapKeyframe, submap: int, window: int) -> None:
        """Give a keyframe a node; `attach`, `attach_by` or `begin_submap` have to follow."""
        self._placed[keyframe.id] = _Placed(keyframe.stamp, submap, self._links.add(window))

    def begin_submap(self, keyframe: int, map_keyframe: Sim3, reference: int | None, covariance: Array | None) -> None:
        """Begin a submap with a keyframe at `map_keyframe`; see PoseGraph.add_submap."""
        self._graph.add_submap(self._placed[keyframe].node, map_keyframe,
                               None if reference is None else self._placed[reference].node, covariance)

    def attach(self, relative_poses: Iterable[RelativePose]) -> None:
        """Take in the relative poses of a window: new keyframes are attached, known relative poses are merged."""
        known: list[Edge] = []
        new: list[Edge] = []
        for step in relative_poses:
            (known if step.known else new).append(self._overlap(step))
        self._graph.merge(known)
        self._graph.add_nodes(new)
        self._note(new)

    def attach_by(self, reference: int, keyframe: int, reference_keyframe: Sim3, covariance: Array,
                  pivot: Array) -> None:
        """Attach a new keyframe to a known one; `pivot` (3,), in its frame, stays in place if it is rescaled."""
        edge = self._between(reference, keyframe, reference_keyframe, covariance)
        self._graph.add_nodes([edge])
        self._links.note(edge)
        self._pivot[edge.second] = pivot

    def close_loop(self, first: int, second: int, relation: LoopMeasurement) -> Loop:
        """Relate two keyframes that see the same place; the graph says whether it believes it: PoseGraph.add_loop.

        If the loop is likely, what the joint reconstruction says of relative poses that the map has is merged with it.
        """
        edge = self._between(first, second, relation.first_second, relation.covariance)
        loop = self._graph.add_loop(edge.first, edge.second, edge.first_second, edge.covariance,
                                    [self._overlap(step) for step in relation.relative_poses], relation.images)
        self._label()
        return loop

    def release(self, keyframes: set[int]) -> None:
        """Let go of keyframes; their nodes are marginalized when there are many."""
        self._placed = {k: placed for k, placed in self._placed.items() if k not in keyframes}
        if len(self._graph.map_node) > _SPARE * len(self._placed):
            self._marginalize()

    def rescale(self, keyframe: int, factor: float) -> None:
        """Make a keyframe's submap, and what loops connect it with, larger by `factor`; see PoseGraph.rescale."""
        self._graph.rescale(self._placed[keyframe].node, factor)

    def observe_scale(self, log_scale: Mapping[int, float]) -> None:
        """Take in the scale of windows; see PoseGraph.observe_scale."""
        nodes, size = self._nodes()
        windows = [self._links.window[node] for node in nodes]
        # What windows have bent inside stays.
        bend = np.log(size / size[self._links.begins(nodes)])
        self._graph.observe_scale({node: log_scale[window] + inside for node, window, inside in zip(
            nodes, windows, bend.tolist(), strict=True) if window in log_scale}, self._pivot)

    def arrays(self) -> dict[str, Any]:
        """Return what a Solution says of keyframes, windows and the edges between them, by its names."""
        placed = [self._placed[k] for k in self.ids]
        map_camera = self._graph.placed([p.node for p in placed])
        for row, one in enumerate(placed):
            if one.node_camera is not _SAME:
                map_camera[row] = map_camera[row] @ to_matrix(one.node_camera)
        scale = scales(map_camera)
        map_camera[:, :3, :3] /= scale[:, None, None]
        nodes, size = self._nodes()
        begins = np.unique(self._links.begins(nodes))
        begin = [nodes[row] for row in begins.tolist()]
        return {
            "ids": np.array(self.ids, np.int64),
            "stamps": np.array([p.stamp for p in placed], np.int64),
            "submaps": np.array([self.labels[p.submap] for p in placed], np.int64),
            "windows": np.array([self._links.window[p.node] for p in placed], np.int64),
            "map_camera": map_camera,
            "scale": scale,
            "window_ids": np.array([self._links.window[node] for node in begin], np.int64),
            "window_origin": self._graph.placed(begin)[:, :3, 3],
            "window_scale": size[begins],
            "edges": tuple(self._links.edges(self._graph)),
        }

    def record(self) -> dict[str, Any]:
        """Return the graph's part of a MapRecord, by its names."""
        placed, places = [self._placed[k] for k in self.ids], self._graph.map_node
        window_pose, window_scale = pack_similarities(list(places.values()))
        return pack_edges(self._graph.edges) | {
            "keyframe_submap": np.array([p.submap for p in placed], np.int64),
            "keyframe_window": np.array([p.node for p in placed], np.int64),
            "keyframe_pose": np.array([p.node_camera.apply_pose(np.eye(4)) for p in placed]),
            "node_window": np.array([self._links.window[node] for node in places], np.int64),
            "window_id": np.array(list(places), np.int64),
            "window_pose": window_pose,
            "window_scale": window_scale,
            "anchor": np.array(self._graph.anchors, np.int64),
        }

    def restore(self, record: MapRecord, keyframes: Iterable[MapKeyframe]) -> None:
        """Go on, in an empty graph, from a record that was checked; `keyframes` in the record's order."""
        places = unpack_similarities(record.window_pose, record.window_scale)
        self._graph.restore(dict(zip(record.window_id.tolist(), places, strict=True)), record.anchor.tolist(),
                            unpack_edges(record))
        self._links.restore(record.window_id.tolist(), record.node_window.tolist(), self._graph)
        rows = zip(keyframes, record.keyframe_submap, record.keyframe_window, record.keyframe_pose, strict=True)
        self._placed = {kept.id: _Placed(kept.stamp, int(submap), int(node),
                                         _SAME if np.array_equal(camera, np.eye(4)) else Sim3.from_pose(camera))
                        for kept, submap, node, camera in rows}
        self._label()

    def _label(self) -> None:
        self.labels = [self._graph.component(anchor) for anchor in self._graph.anchors]

    def _nodes(self) -> tuple[list[int], Array]:
        """Return the graph's nodes (n), and map units in a unit of each."""
        nodes = list(self._graph.map_node)
        return nodes, scales(self._graph.placed(nodes))

    def _overlap(self, step: RelativePose) -> Edge:
        """Return a relative pose of keyframes as one of nodes."""
        return self._between(step.first, step.second, step.first_second, step.covariance)

    def _between(self, first: int, second: int, first_second: Sim3, covariance: Array) -> Edge:
        """Return how the nodes of two keyframes lie to each other, given how those do."""
        one, other = self._placed[first], self._placed[second]
        if one.node_camera is _SAME is other.node_camera:
            return Edge(one.node, other.node, "overlap", first_second, covariance)
        relation = one.node_camera @ first_second @ other.node_camera.inverse()
        return Edge(one.node, other.node, "overlap", relation,
                    transported(covariance[None], to_matrix(other.node_camera)[None])[0])

    def _note(self, edges: Iterable[Edge]) -> None:
        """Note edges by which nodes are attached; the camera before a node stays in place if its window is rescaled."""
        for edge in edges:
            self._links.note(edge)
            self._pivot[edge.second] = edge.first_second.inverse().translation

    def _marginalize(self) -> None:
        """Let go of the graph's nodes that no keyframe needs."""
        made = self._graph.contract(placed.node for placed in self._placed.values())
        nodes = self._graph.map_node.keys()
        self._pivot = {node: point for node, point in self._pivot.items() if node in nodes}
        self._links.keep(nodes)
        self._note(made)
