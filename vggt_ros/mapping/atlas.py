"""The map: windows in a pose graph, keyframes in windows, and submaps where the chain of windows broke."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import Config
from vggt_ros.features.appearance import Features, describe
from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.geometry.sim3 import scales, to_matrix, transported
from vggt_ros.loops.verification import Relation
from vggt_ros.mapping.map_keyframes import keep, own_views, with_features
from vggt_ros.mapping.window_edges import WindowLinks
from vggt_ros.places.relocalization import Found, depth_seen, neighbors
from vggt_ros.pose_graph.consistency import Loop
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.pose_graph.relative_poses import Step, steps
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.scale.observer import initial_scale, taken_over
from vggt_ros.storage.map_packing import (
    pack_edges,
    pack_keyframes,
    pack_similarities,
    unpack_edges,
    unpack_keyframes,
    unpack_similarities,
)
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.threads import give_way
from vggt_ros.windows.alignment import Alignment, AlignmentRefused, View, align, suppose
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.solution import Edge, KeptKeyframe, MetricScale, Solution

_NEIGHBORS = 4
"""Keyframes of the map whose depth stands for what the map knows of an image found in it."""
_SPARE = 1.25
"""Nodes of the graph for each keyframe beyond which those of keyframes that were let go are let go, too."""
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


class Atlas:
    """Everything solved so far. A keyframe has the units of the first window that solved it.

    Attributes:
        submap: the submap that grows; -1 before the first.
        kept: keyframe id to what is kept of it.
        metric: what is known of the unit of the submap that grows.

    """

    def __init__(self, config: Config, version: int = 0) -> None:
        """Begin empty; the solutions' versions go on from `version`."""
        self._config = config
        self._graph = PoseGraph(config.windows.size - config.windows.overlap)
        self._links = WindowLinks()
        self._placed: dict[int, _Placed] = {}
        self._version = version
        self.metric = MetricScale()
        self.kept: dict[int, KeptKeyframe] = {}
        self.submap = -1
        self._labels: list[int] = []  # of each submap, the oldest one that loops connect it with
        self._pivot: dict[int, Array] = {}  # of a node, what stays in place when its window turns out larger
        self._metrics: dict[int, MetricScale] = {}  # of submaps, as they were when the next one began

    @property
    def loops(self) -> int:
        """How many loops the map was bent by, those that the overlaps have taken over among them."""
        return self._graph.settled + sum(loop.taken for loop in self._graph.loops)

    def knows(self, keyframe: int) -> bool:
        """Return True if a keyframe is solved in the submap that grows, or in one that loops connect it with."""
        return keyframe in self._placed and self._labels[self._placed[keyframe].submap] == self._labels[self.submap]

    def window_of(self, keyframe: int) -> int:
        """Return the window that placed a solved keyframe."""
        return self._links.window[self._placed[keyframe].node]

    def views(self, keyframes: Iterable[int], reference: int) -> dict[int, View]:
        """Return what is known of solved keyframes, in the frame and units of one of their submap."""
        reference_map, known = self._place(reference).inverse(), {}
        for keyframe in keyframes:
            place = reference_map @ self._place(keyframe)
            known[keyframe] = View(place.apply_pose(np.eye(4)), self.kept[keyframe], place.scale)
        return known

    def chain(self, keyframe: int, count: int) -> list[int]:
        """Return the solved keyframes of one's submap that came at most `count` before or after it."""
        submap = self._placed[keyframe].submap
        return [k for k in range(keyframe - count, keyframe + count + 1)
                if k in self._placed and self._placed[k].submap == submap]

    def describe(self, keyframes: Sequence[Keyframe]) -> list[Features]:
        """Note what the places of solved keyframes look like, and return the local features of each."""
        found = []
        for keyframe in keyframes:
            give_way()
            features, appearance = describe(keyframe.image)
            self.kept[keyframe.id] = replace(self.kept[keyframe.id], appearance=appearance)
            found.append(features)
        return found

    def release(self, keyframes: Iterable[int]) -> None:
        """Let go of solved keyframes; solutions that were handed out before keep them."""
        gone = set(keyframes)
        self.kept = {k: kept for k, kept in self.kept.items() if k not in gone}
        self._placed = {k: placed for k, placed in self._placed.items() if k not in gone}
        if len(self._graph.map_node) > _SPARE * len(self._placed):
            self._contract()

    def close_loop(self, first: int, second: int, relation: Relation) -> Loop:
        """Relate two keyframes that see the same place; the graph says whether it believes it: PoseGraph.add_loop.

        If the loop is likely, what the joint reconstruction says of steps that the map has is merged with it.
        """
        ends = [self._placed[keyframe] for keyframe in (first, second)]
        loop = self._graph.add_loop(
            ends[0].node, ends[1].node, *_between_nodes(ends[0], ends[1], relation.first_second, relation.covariance),
            [self._overlap(step) for step in relation.steps], relation.images)
        before, self._labels = self._labels, [self._graph.component(anchor) for anchor in self._graph.anchors]
        joined = self._labels[self.submap]
        if joined != before[self.submap]:  # the younger submap has taken over the unit of the older
            self.metric = self._metrics.get(joined, self.metric)
        return loop

    def attach(self, window: Window, geometry: WindowGeometry) -> None:
        """Align a window to the submap that grows by the keyframes that both know, and add it to the graph.

        Raises:
            AlignmentRefused: the overlap does not determine its place, or contradicts itself.

        """
        kept = keep(window, geometry, self._config.map.kept_width)
        shared = [k for k in geometry.keyframe_ids if self.knows(k)]
        known, views = self.views(shared, shared[-1]) if shared else {}, own_views(geometry, kept)
        alignment = align(known, views, self._config.alignment)
        self._take(window, kept)
        self._hang(steps(views, known, alignment))

    def join(self, window: Window, geometry: WindowGeometry, places: Mapping[int, Found], solution: Solution) -> None:
        """Align a window that shares no keyframe with the map by where its images were found in it.

        The map knows an image by the depth that its own keyframes have of what the image sees, the window by its own;
        so found images stand for shared keyframes. `places` is keyframe id to where it was found in `solution`.

        Raises:
            AlignmentRefused: no image was found, or they contradict each other.

        """
        kept = keep(window, geometry, self._config.map.kept_width)
        reference, alignment = self._seen_from_map(geometry, kept, places, solution)
        known = self._placed[reference]
        self.submap = known.submap
        self._take(window, kept)
        first = self._placed[geometry.keyframe_ids[0]]
        edge = Edge(known.node, first.node, "overlap", *_between_nodes(known, first, alignment.reference_window,
                                                                       alignment.covariance))
        self._graph.add_nodes([edge])
        self._links.note(edge)
        newest = geometry.keyframe_ids.index(max(alignment.shared))
        self._pivot[first.node] = geometry.window_camera[newest, :3, 3]  # there the path goes on from the map's
        self._hang(steps(own_views(geometry, kept)))

    def rejoin(self, window: Window, geometry: WindowGeometry, places: Mapping[int, Found],
               solution: Solution) -> Loop:
        """Relate a solved window's submap to another one by where its images were found there; see `join`.

        Raises:
            AlignmentRefused: the places found contradict each other.

        """
        kept = keep(window, geometry, self._config.map.kept_width)
        reference, alignment = self._seen_from_map(geometry, kept, places, solution)
        views = own_views(geometry, kept)
        own = next(k for k in views if self.knows(k))
        # The window hangs where its keyframes do, which may have the units of the one before.
        back = align(self.views([k for k in views if self.knows(k)], own), views, self._config.alignment)
        window_own = back.reference_window.inverse()
        covariance = transported(alignment.covariance[None], to_matrix(back.reference_window)[None])[0]
        return self.close_loop(reference, own, Relation(alignment.reference_window @ window_own, covariance,
                                                        images=len(alignment.shared)))

    def elsewhere(self, solution: Solution) -> NDArray[np.int64]:
        """Return the rows of the solution whose submaps nothing connects with the one that grows."""
        return np.flatnonzero(solution.submaps != self._labels[self.submap]) if self._labels else np.zeros(0, np.int64)

    def _seen_from_map(self, geometry: WindowGeometry, kept: Mapping[int, KeptKeyframe], places: Mapping[int, Found],
                       solution: Solution) -> tuple[int, Alignment]:
        """Return a keyframe of the map, and where a solved window lies in its frame; raises AlignmentRefused."""
        found = {k: place for k, place in places.items() if k in kept}
        if len({place.submap for place in found.values()}) > 1:  # the oldest knows the most
            found = {k: place for k, place in found.items() if place.submap == min(p.submap for p in found.values())}
        if not found:
            raise AlignmentRefused("no keyframe of the window is known, nor was one found in the map")
        around = {k: neighbors(solution, place.map_camera, place.submap, _NEIGHBORS) for k, place in found.items()}
        reference = int(max(solution.ids[rows[0]] for rows in around.values()))
        reference_map = self._place(reference).inverse()
        known = {}
        for keyframe, place in found.items():
            own = kept[keyframe]
            depth = depth_seen(solution, around[keyframe], place.map_camera, own.intrinsics, own.depth.shape)
            seen = replace(own, depth=depth, confidence=np.full(depth.shape, 255, np.uint8))
            known[keyframe] = View(reference_map.apply_pose(place.map_camera), seen, reference_map.scale)
        return reference, align(known, own_views(geometry, kept), self._config.alignment)

    def begin_submap(self, window: Window, geometry: WindowGeometry) -> None:
        """Begin a submap with a window.

        The first lies at the map's origin. Where a later one lies is hardly known: until a loop tells, by a keyframe
        that the submap before has, too, or else where the newest one was; it takes over the median depth.
        """
        kept = keep(window, geometry, self._config.map.kept_width)
        views, reference, covariance = own_views(geometry, kept), None, None
        if self.submap < 0:
            scale, self.metric = initial_scale(geometry, self._config.scale)
            map_window = Sim3.from_pose(np.eye(4), scale)
        else:
            newest = max(self._placed)
            before = self._place(newest)
            known = self.views((k for k in geometry.keyframe_ids if self.knows(k)), newest)
            if (supposed := suppose(known, views, self._config.alignment)) is not None:
                shared, newest_window, covariance = supposed
                reference, map_window = self._placed[shared].node, before @ newest_window
            else:
                depth = self.kept[newest].median_depth * before.scale
                scale = 1.0 if geometry.metric else depth / float(np.nanmedian(geometry.depth))
                map_window = Sim3.from_pose(before.apply_pose(np.eye(4)), scale)
            self._metrics[self.submap] = self.metric
            if not geometry.metric:
                self.metric = taken_over(self.metric)
        self.submap = len(self._labels)
        self._labels.append(self.submap)
        self._take(window, kept)
        self._graph.add_submap(self._placed[geometry.keyframe_ids[0]].node, map_window, reference, covariance)
        self._hang(steps(views))

    def rescale(self, factor: float, metric: MetricScale) -> None:
        """Make the submap that grows, and what loops connect it with, larger by `factor`; see PoseGraph.rescale."""
        self._graph.rescale(self._placed[max(self._placed)].node, factor)
        self.metric = metric

    def observe_scale(self, log_scale: Mapping[int, float], metric: MetricScale) -> None:
        """Take in the scale of all windows connected with the submap that grows; see PoseGraph.observe_scale."""
        if log_scale:
            nodes, size = self._nodes()
            windows = [self._links.window[node] for node in nodes]
            # What windows have bent inside stays.
            bend = np.log(size / size[self._links.begins(nodes)])
            self._graph.observe_scale({node: log_scale[window] + inside for node, window, inside in zip(
                nodes, windows, bend.tolist(), strict=True) if window in log_scale}, self._pivot)
        self.metric = metric

    def solution(self) -> Solution:
        """Return the state of the map as the graph holds it now."""
        self._version += 1
        ids = sorted(self._placed)
        placed = [self._placed[k] for k in ids]
        map_camera = self._graph.placed([p.node for p in placed])
        for row, one in enumerate(placed):
            if one.node_camera is not _SAME:
                map_camera[row] = map_camera[row] @ to_matrix(one.node_camera)
        scale = scales(map_camera)
        map_camera[:, :3, :3] /= scale[:, None, None]
        nodes, size = self._nodes()
        begins = np.unique(self._links.begins(nodes))
        begin = [nodes[row] for row in begins.tolist()]
        return Solution(
            version=self._version,
            ids=np.array(ids, np.int64),
            stamps=np.array([p.stamp for p in placed], np.int64),
            submaps=np.array([self._labels[p.submap] for p in placed], np.int64),
            windows=np.array([self._links.window[p.node] for p in placed], np.int64),
            map_camera=map_camera,
            scale=scale,
            kept=self.kept,
            window_ids=np.array([self._links.window[node] for node in begin], np.int64),
            window_origin=self._graph.placed(begin)[:, :3, 3],
            window_scale=size[begins],
            edges=tuple(self._links.edges(self._graph)),
            metric=self.metric,
        )

    def record(self, next_keyframe: int, next_window: int, map_world: Array) -> MapRecord:
        """Return all that the map is, for storage; `map_world` 4x4 turns it upright, ids below `next_...` are used.

        Raises:
            ValueError: nothing is mapped yet.

        """
        if not self._placed:
            raise ValueError("nothing is mapped yet")
        ids = sorted(self._placed)
        placed, places = [self._placed[k] for k in ids], self._graph.map_node
        window_pose, window_scale = pack_similarities(list(places.values()))
        return MapRecord(
            **pack_keyframes([self.kept[k] for k in ids]), **pack_edges(self._graph.edges),
            keyframe_submap=np.array([p.submap for p in placed], np.int64),
            keyframe_window=np.array([p.node for p in placed], np.int64),
            keyframe_pose=np.array([p.node_camera.apply_pose(np.eye(4)) for p in placed]),
            node_window=np.array([self._links.window[node] for node in places], np.int64),
            window_id=np.array(list(places), np.int64), window_pose=window_pose, window_scale=window_scale,
            anchor=np.array(self._graph.anchors, np.int64), submap=self.submap, next_keyframe=next_keyframe,
            next_window=next_window, scale_state=self.metric.state, scale_sigma=self.metric.sigma,
            scale_source=self.metric.source, map_world=map_world)

    def restore(self, record: MapRecord) -> None:
        """Go on, in an empty atlas, from a record that was checked."""
        places = unpack_similarities(record.window_pose, record.window_scale)
        self._graph.restore(dict(zip(record.window_id.tolist(), places, strict=True)), record.anchor.tolist(),
                            unpack_edges(record))
        self.kept = {kept.id: kept for kept in unpack_keyframes(record)}
        self._links.restore(record.window_id.tolist(), record.node_window.tolist(), self._graph)
        rows = zip(self.kept.values(), record.keyframe_submap, record.keyframe_window, record.keyframe_pose,
                   strict=True)
        self._placed = {kept.id: _Placed(kept.stamp, int(submap), int(node),
                                    _SAME if np.array_equal(camera, np.eye(4)) else Sim3.from_pose(camera))
                        for kept, submap, node, camera in rows}
        self.submap = record.submap
        self.metric = MetricScale(record.scale_state, record.scale_sigma, record.scale_source)
        self._labels = [self._graph.component(anchor) for anchor in self._graph.anchors]

    def _place(self, keyframe: int) -> Sim3:
        """Return `map_camera`, whose scale is map units in a unit of the keyframe's depth."""
        placed = self._placed[keyframe]
        return self._graph.map_node[placed.node] @ placed.node_camera

    def _nodes(self) -> tuple[list[int], Array]:
        """Return the graph's nodes (n), and map units in a unit of each."""
        nodes = list(self._graph.map_node)
        return nodes, scales(self._graph.placed(nodes))

    def _hang(self, window_steps: Iterable[Step]) -> None:
        """Take the steps of a window into the graph: new keyframes hang on known ones, known steps are merged."""
        known: list[Edge] = []
        new: list[Edge] = []
        for step in window_steps:
            (known if step.known else new).append(self._overlap(step))
        self._graph.merge(known)
        self._graph.add_nodes(new)
        self._note_steps(new)

    def _overlap(self, step: Step) -> Edge:
        """Return a step as a relation of nodes."""
        first, second = self._placed[step.first], self._placed[step.second]
        return Edge(first.node, second.node, "overlap", *_between_nodes(first, second, step.first_second,
                                                                        step.covariance))

    def _note_steps(self, edges: Iterable[Edge]) -> None:
        """Note nodes that hang on the camera before them, which stays when a node's window turns out larger."""
        for edge in edges:
            self._links.note(edge)
            self._pivot[edge.second] = edge.first_second.inverse().translation

    def _contract(self) -> None:
        """Let go of the graph's nodes that no keyframe needs."""
        made = self._graph.contract(placed.node for placed in self._placed.values())
        nodes = self._graph.map_node.keys()
        self._pivot = {node: point for node, point in self._pivot.items() if node in nodes}
        self._links.keep(nodes)
        self._note_steps(made)

    def _take(self, window: Window, kept: dict[int, KeptKeyframe]) -> None:
        images = {keyframe.id: keyframe for keyframe in window.keyframes}
        for keyframe, what in kept.items():
            if not self.knows(keyframe):
                give_way()
                self._placed[keyframe] = _Placed(what.stamp, self.submap, self._links.add(window.id))
                self.kept[keyframe] = with_features(what, images[keyframe])


def _between_nodes(first: _Placed, second: _Placed, first_second: Sim3, covariance: Array) -> tuple[Sim3, Array]:
    """Return how the nodes of two keyframes lie to each other, given how those do."""
    if first.node_camera is _SAME is second.node_camera:
        return first_second, covariance
    relation = first.node_camera @ first_second @ second.node_camera.inverse()
    return relation, transported(covariance[None], to_matrix(second.node_camera)[None])[0]
