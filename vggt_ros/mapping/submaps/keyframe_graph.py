"""Solved keyframes as nodes of the pose graph, with the submap and the window of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.geometry.sim3 import scales, to_matrix, transported
from vggt_ros.mapping.submaps.window_edges import WindowEdges
from vggt_ros.pose_graph.consistency import Loop
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.pose_graph.planar import PlanarGround
from vggt_ros.pose_graph.plausibility import Drift
from vggt_ros.pose_graph.relative_poses import LoopMeasurement, RelativePose
from vggt_ros.storage.map_packing import pack_edges, pack_similarities, unpack_edges, unpack_similarities
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.windows.solution import Edge, MapKeyframe

_MAX_NODES_PER_KEYFRAME = 1.25
"""Nodes of the graph per keyframe beyond which the nodes of removed keyframes are marginalized."""
_IDENTITY = Sim3.identity()


@dataclass(frozen=True, eq=False)
class _KeyframeNode:
    """A solved keyframe: its submap, its node in the graph, and its pose in that node.

    A keyframe is a node of its own, except in maps of older versions, where a window is a node.
    """

    stamp: int
    submap: int
    node: int
    node_camera: Sim3 = _IDENTITY


class KeyframeGraph:
    """The pose graph by keyframe ids, with the submap and the window of each keyframe.

    Attributes:
        components: for each submap, the oldest one that loops connect it with.

    """

    def __init__(self, stride: int, largest_drift: float) -> None:
        """Begin empty; `stride` new keyframes come with each window; see `PoseGraph` for the drift."""
        self._graph = PoseGraph(stride, largest_drift)
        self._window_edges = WindowEdges()
        self._keyframe_nodes: dict[int, _KeyframeNode] = {}
        # Of a node, the point in its frame that keeps its position in the parent's frame when its scale is set.
        self._fixed_point: dict[int, Array] = {}
        self.components: list[int] = []

    def __len__(self) -> int:
        """Return the number of keyframes."""
        return len(self._keyframe_nodes)

    def __contains__(self, keyframe: int) -> bool:
        """Return True if a keyframe is solved."""
        return keyframe in self._keyframe_nodes

    @property
    def ids(self) -> list[int]:
        """The solved keyframes in ascending order."""
        return sorted(self._keyframe_nodes)

    @property
    def loop_count(self) -> int:
        """How many loops were accepted, settled ones (absorbed into the overlap factors) included."""
        return self._graph.settled + sum(loop.accepted for loop in self._graph.loops)

    def submap(self, keyframe: int) -> int:
        """Return the submap in which a keyframe was solved."""
        return self._keyframe_nodes[keyframe].submap

    def window(self, keyframe: int) -> int:
        """Return the window that placed a keyframe."""
        return self._window_edges.window[self._keyframe_nodes[keyframe].node]

    def pose(self, keyframe: int) -> Sim3:
        """Return `map_camera`, whose scale is map units per unit of the keyframe's depth."""
        own = self._keyframe_nodes[keyframe]
        return self._graph.map_node[own.node] @ own.node_camera

    def temporal_neighbors(self, keyframe: int, count: int) -> list[int]:
        """Return the keyframes of the same submap whose ids differ by at most `count`, itself included."""
        submap = self._keyframe_nodes[keyframe].submap
        return [k for k in range(keyframe - count, keyframe + count + 1)
                if k in self._keyframe_nodes and self._keyframe_nodes[k].submap == submap]

    def add(self, keyframe: MapKeyframe, submap: int, window: int) -> None:
        """Create a node for a keyframe; `attach`, `attach_keyframe` or `begin_submap` have to follow."""
        self._keyframe_nodes[keyframe.id] = _KeyframeNode(keyframe.stamp, submap, self._window_edges.add_node(window))

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Forget the keyframes that the body adds if it fails: they may have no pose, and later windows share them."""
        before = self._keyframe_nodes.copy()
        try:
            yield
        except Exception:
            self._keyframe_nodes = before
            self._update_components()
            raise

    def node(self, keyframe: int) -> int:
        """Return the node of a keyframe in the graph."""
        return self._keyframe_nodes[keyframe].node

    def begin_submap(
        self, keyframe: int, map_keyframe: Sim3, reference_node: int | None, covariance: Array | None
    ) -> None:
        """Begin a submap with a keyframe at `map_keyframe`; see `PoseGraph.add_submap`.

        The reference is a node, because its keyframe may have got a new node in the new submap by then.
        """
        self._graph.add_submap(self._keyframe_nodes[keyframe].node, map_keyframe, reference_node, covariance)

    def expect_uncalibrated(self) -> None:
        """Expect the larger systematic errors of a camera without a calibration."""
        self._graph.expect_uncalibrated()

    def set_reach(self, anchor: int, keyframe: int, radius: float) -> None:
        """Bound the position of a submap's first keyframe by the last one before; see `PoseGraph.set_reach`."""
        node = self._keyframe_nodes[keyframe].node
        self._graph.set_reach(self._keyframe_nodes[anchor].node, node, radius / self._graph.map_node[node].scale)

    def drift(self, first: int, second: int) -> Drift | None:
        """Return the drift to expect between two keyframes; None if nothing constrains their relative pose."""
        return self._graph.drift(self._keyframe_nodes[first].node, self._keyframe_nodes[second].node)

    def attach(self, relative_poses: Iterable[RelativePose]) -> None:
        """Add the relative poses of a window: attach new keyframes, and merge the relative poses between known ones.

        Known keyframes whose relative pose comes as that of a new one are placed anew; see `is_chain`.
        """
        known: list[Edge] = []
        new: list[Edge] = []
        for relative in relative_poses:
            (known if relative.known else new).append(self._overlap_edge(relative))
        self._graph.merge(known)
        placed = self._graph.map_node.keys() & {edge.second for edge in new}
        self._graph.merge([edge for edge in new if edge.second in placed], newer=True)
        self._graph.add_nodes([edge for edge in new if edge.second not in placed])
        self._record_edges(new)

    def is_chain(self, keyframes: Sequence[int]) -> bool:
        """Return whether each of these keyframes is attached to the one before it, so that they can be placed anew."""
        nodes = [self.node(keyframe) for keyframe in keyframes]
        parents = [edge.first for edge in self._graph.overlap_edges(nodes[1:])]
        return parents == nodes[:-1] and not set(nodes[1:]) & set(self._graph.anchors)

    def attach_keyframe(self, reference: int, keyframe: int, reference_keyframe: Sim3, covariance: Array,
                        fixed_point: Array) -> None:
        """Attach a new keyframe to a known one; `fixed_point` (3,) is in the new one's frame, see `set_scales`."""
        edge = self._node_edge(reference, keyframe, reference_keyframe, covariance)
        self._graph.add_nodes([edge])
        self._window_edges.add_edge(edge)
        self._fixed_point[edge.second] = fixed_point

    def close_loop(self, first: int, second: int, measurement: LoopMeasurement) -> Loop:
        """Add a loop between two keyframes; see `PoseGraph.add_loop` for whether it is accepted.

        If the loop is likely, the relative poses of the joint reconstruction are merged with those in the map.
        """
        edge = self._node_edge(first, second, measurement.first_second, measurement.covariance)
        loop = self._graph.add_loop(edge.first, edge.second, edge.first_second, edge.covariance,
                                    [self._overlap_edge(relative) for relative in measurement.relative_poses],
                                    measurement.images)
        self._update_components()
        return loop

    def poses(self, keyframes: Sequence[int]) -> Array:
        """Return the similarities `map_keyframe` (n, 4, 4) of keyframes; see `pose`."""
        return np.array([to_matrix(self.pose(keyframe)) for keyframe in keyframes])

    def adjust(self, keyframes: Sequence[int], map_keyframe: Array, loops: Sequence[Loop] = ()) -> bool:
        """Take the poses (n, 4, 4) of keyframes by a bundle adjustment, if no loop is lost; see `PoseGraph.adjust`."""
        cameras = [to_matrix(self._keyframe_nodes[keyframe].node_camera.inverse()) for keyframe in keyframes]
        nodes = [self.node(keyframe) for keyframe in keyframes]
        taken = self._graph.adjust(nodes, map_keyframe @ np.array(cameras), loops)
        self._update_components()
        return taken

    def remove(self, keyframes: set[int]) -> None:
        """Remove keyframes; their nodes are marginalized when there are many."""
        self._keyframe_nodes = {k: own for k, own in self._keyframe_nodes.items() if k not in keyframes}
        if len(self._graph.map_node) > _MAX_NODES_PER_KEYFRAME * len(self._keyframe_nodes):
            self._marginalize()

    def apply_ground(self, ground: PlanarGround) -> None:
        """Solve with soft factors by the ground; see `PoseGraph.apply_ground`."""
        self._graph.apply_ground(ground)
        self._update_components()

    def rescale(self, keyframe: int, factor: float) -> None:
        """Scale the connected component of a keyframe by `factor`; see `PoseGraph.rescale`."""
        self._graph.rescale(self._keyframe_nodes[keyframe].node, factor)

    def set_scales(self, log_scale: Mapping[int, float]) -> None:
        """Set the scales of windows: window id to the logarithm of its scale; see `PoseGraph.set_scales`."""
        nodes, scale = self._node_scales()
        windows = [self._window_edges.window[node] for node in nodes]
        # Scale differences within a window, from its non-rigid deformation, are kept.
        within = np.log(scale / scale[self._window_edges.first_rows(nodes)])
        self._graph.set_scales({node: log_scale[window] + offset for node, window, offset in zip(
            nodes, windows, within.tolist(), strict=True) if window in log_scale}, self._fixed_point)

    def solution_fields(self) -> dict[str, Any]:
        """Return the fields of a Solution that concern keyframes, windows and the edges between them."""
        own = [self._keyframe_nodes[k] for k in self.ids]
        map_camera = self._graph.poses([p.node for p in own])
        for row, one in enumerate(own):
            if one.node_camera is not _IDENTITY:
                map_camera[row] = map_camera[row] @ to_matrix(one.node_camera)
        scale = scales(map_camera)
        map_camera[:, :3, :3] /= scale[:, None, None]
        nodes, node_scale = self._node_scales()
        first_rows = np.unique(self._window_edges.first_rows(nodes))
        first_nodes = [nodes[row] for row in first_rows.tolist()]
        return {
            "ids": np.array(self.ids, np.int64),
            "stamps": np.array([p.stamp for p in own], np.int64),
            "submaps": np.array([self.components[p.submap] for p in own], np.int64),
            "windows": np.array([self._window_edges.window[p.node] for p in own], np.int64),
            "map_camera": map_camera,
            "scale": scale,
            "window_ids": np.array([self._window_edges.window[node] for node in first_nodes], np.int64),
            "window_origin": self._graph.poses(first_nodes)[:, :3, 3],
            "window_scale": node_scale[first_rows],
            "edges": tuple(self._window_edges.edges(self._graph)),
        }

    def record_fields(self) -> dict[str, Any]:
        """Return the fields of a MapRecord that concern the graph."""
        own, poses = [self._keyframe_nodes[k] for k in self.ids], self._graph.map_node
        window_pose, window_scale = pack_similarities(list(poses.values()))
        return pack_edges(self._graph.edges) | {
            "keyframe_submap": np.array([p.submap for p in own], np.int64),
            "keyframe_window": np.array([p.node for p in own], np.int64),
            "keyframe_pose": np.array([p.node_camera.apply_pose(np.eye(4)) for p in own]),
            "node_window": np.array([self._window_edges.window[node] for node in poses], np.int64),
            "window_id": np.array(list(poses), np.int64),
            "window_pose": window_pose,
            "window_scale": window_scale,
            "anchor": np.array(self._graph.anchors, np.int64),
        }

    def restore(self, record: MapRecord, keyframes: Iterable[MapKeyframe]) -> None:
        """Restore an empty graph from a record that was checked; `keyframes` in the record's order."""
        poses = unpack_similarities(record.window_pose, record.window_scale)
        self._graph.restore(dict(zip(record.window_id.tolist(), poses, strict=True)), record.anchor.tolist(),
                            unpack_edges(record))
        self._window_edges.restore(record.window_id.tolist(), record.node_window.tolist(), self._graph)
        rows = zip(keyframes, record.keyframe_submap, record.keyframe_window, record.keyframe_pose, strict=True)
        self._keyframe_nodes = {
            keyframe.id: _KeyframeNode(keyframe.stamp, int(submap), int(node),
                                       _IDENTITY if np.array_equal(camera, np.eye(4)) else Sim3.from_pose(camera))
            for keyframe, submap, node, camera in rows}
        self._update_components()

    def _update_components(self) -> None:
        self.components = [self._graph.component(anchor) for anchor in self._graph.anchors]

    def _node_scales(self) -> tuple[list[int], Array]:
        """Return the graph's nodes (n), and the map units per unit of each."""
        nodes = list(self._graph.map_node)
        return nodes, scales(self._graph.poses(nodes))

    def _overlap_edge(self, relative: RelativePose) -> Edge:
        """Return a relative pose of keyframes as an edge between their nodes."""
        return self._node_edge(relative.first, relative.second, relative.first_second, relative.covariance)

    def _node_edge(self, first: int, second: int, first_second: Sim3, covariance: Array) -> Edge:
        """Return the edge between the nodes of two keyframes, given their relative pose."""
        one, other = self._keyframe_nodes[first], self._keyframe_nodes[second]
        if one.node_camera is _IDENTITY is other.node_camera:
            return Edge(one.node, other.node, "overlap", first_second, covariance)
        relative = one.node_camera @ first_second @ other.node_camera.inverse()
        return Edge(one.node, other.node, "overlap", relative,
                    transported(covariance[None], to_matrix(other.node_camera)[None])[0])

    def _record_edges(self, edges: Iterable[Edge]) -> None:
        """Record edges that attach nodes, with the origin of the parent as the fixed point of each node."""
        for edge in edges:
            self._window_edges.add_edge(edge)
            self._fixed_point[edge.second] = edge.first_second.inverse().translation

    def _marginalize(self) -> None:
        """Marginalize the graph's nodes that no keyframe needs."""
        new_edges = self._graph.marginalize(own.node for own in self._keyframe_nodes.values())
        nodes = self._graph.map_node.keys()
        self._fixed_point = {node: point for node, point in self._fixed_point.items() if node in nodes}
        self._window_edges.retain(nodes)
        self._record_edges(new_edges)
