"""Windows that share no keyframe with the map, placed by images of theirs that are found in it.

The depth of the map's keyframes, rendered at the relocalized pose of an image, is aligned with the depth that the
window has of the image; so relocalized images take the role of shared keyframes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vggt_ros.config import AlignmentConfig
from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.reach import reach
from vggt_ros.mapping.submaps.keyframe_graph import KeyframeGraph
from vggt_ros.mapping.submaps.map_keyframes import window_views
from vggt_ros.places.relocalization import Relocalization, neighbors, render_depth
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.windows.alignment import Alignment, AlignmentRefused, View, align
from vggt_ros.windows.solution import MapKeyframe, Solution

_LOG = logging.getLogger(__name__)
_MIN_POINTS = 50
"""Fewest points of a keyframe with depth in both parts of the map, where they alone are used."""
_RENDERED_KEYFRAMES = 4
"""Number of keyframes of the map whose depth is rendered into a relocalized image."""


def align_relocalized(graph: KeyframeGraph, geometry: WindowGeometry, keyframes: Mapping[int, MapKeyframe],
                      relocalizations: Mapping[int, Relocalization], solution: Solution,
                      config: AlignmentConfig) -> tuple[int, Alignment]:
    """Return a keyframe of the map, and the alignment of a solved window to it.

    Args:
        graph: the map.
        geometry: the window, with the map's data of its `keyframes`.
        keyframes: keyframe id to that data.
        relocalizations: keyframe id to its relocalization in `solution`.
        solution: the newest solution of the map.
        config: limits of an alignment.

    Raises:
        AlignmentRefused: no image was relocalized, or the relocalizations are inconsistent.

    """
    reference, known = _relocalized_views(graph, keyframes, relocalizations, solution)
    return reference, align(known, window_views(geometry, keyframes), config)


def align_found(graph: KeyframeGraph, keyframes: Mapping[int, MapKeyframe], found: Mapping[int, Relocalization],
                solution: Solution, views: Mapping[int, View], config: AlignmentConfig) -> tuple[int, Alignment]:
    """Return a keyframe of one part of the map, and the alignment of keyframes of another part, given as `views`.

    `found` is keyframe id to its relocalization in `solution`, for the same keyframes. Where all of the depth
    contradicts itself, such as where a wall without texture is wrong in one of the parts, that of the points by which
    the keyframes were found has to agree. Other arguments and errors as for `align_relocalized`.
    """
    reference, known = _relocalized_views(graph, keyframes, found, solution)
    try:
        return reference, align(known, views, config, same_depth=True)
    except AlignmentRefused as refusal:
        _, known = _relocalized_views(graph, keyframes, found, solution, points_only=True)
        alignment = align(known, views, replace(config, min_pixels=_MIN_POINTS), same_depth=True)
        _LOG.info("keyframes %d to %d are measured by their points alone: %s", min(found), max(found), refusal)
        return reference, alignment


def _relocalized_views(graph: KeyframeGraph, keyframes: Mapping[int, MapKeyframe],
                      relocalizations: Mapping[int, Relocalization], solution: Solution,
                      points_only: bool = False) -> tuple[int, dict[int, View]]:
    """Return a keyframe of the map, and the views of relocalized images in its frame and units.

    A view has the depth of the map's keyframes, rendered at the relocalized pose; with `points_only`, only that of the
    points by which the image was found. Arguments and errors as for `align_relocalized`.
    """
    found = {k: one for k, one in relocalizations.items() if k in keyframes}
    if len({one.submap for one in found.values()}) > 1:  # the oldest submap has the most information
        found = {k: one for k, one in found.items() if one.submap == min(o.submap for o in found.values())}
    if not found:
        raise AlignmentRefused("the window shares no keyframe with the map, and none of its images was found in it")
    around = {k: neighbors(solution, one.map_camera, one.submap, _RENDERED_KEYFRAMES) for k, one in found.items()}
    reference = int(max(solution.ids[rows[0]] for rows in around.values()))
    reference_map = graph.pose(reference).inverse()
    known = {}
    for k, one in found.items():
        own = keyframes[k]
        depth = _depth_of_points(one, own.depth.shape) if points_only else render_depth(
            solution, around[k], one.map_camera, own.intrinsics, own.depth.shape)
        rendered = replace(own, depth=depth, confidence=np.full(depth.shape, 255, np.uint8))
        known[k] = View(reference_map.apply_pose(one.map_camera), rendered, reference_map.scale)
    return reference, known


def _depth_of_points(found: Relocalization, size: tuple[int, int]) -> NDArray[np.float16]:
    """Return the depth (h, w), map units, of the points by which a relocalized image was found; NaN elsewhere."""
    depth, pixels = np.full(size, np.nan, np.float16), np.rint(found.pixels).astype(int)
    depth[pixels[:, 1], pixels[:, 0]] = (found.points - found.map_camera[:3, 3]) @ found.map_camera[:3, 2]
    return depth


def reach_of(graph: KeyframeGraph, keyframes: Mapping[int, MapKeyframe], stamp: int) -> float | None:
    """Return how far the camera can have come from the newest keyframe until `stamp`, map units; see `geometry.reach`.

    `keyframes` are those of the map.
    """
    newest = graph.ids[-1]
    before = [k for k in graph.ids if graph.submap(k) == graph.submap(newest)]
    return reach(np.array([keyframes[k].stamp for k in before], np.int64),
                 np.array([graph.pose(k).translation for k in before]),
                 keyframes[newest].median_depth * graph.pose(newest).scale, stamp)


def check_reach(graph: KeyframeGraph, keyframes: Mapping[int, MapKeyframe], map_camera: Array, stamp: int) -> None:
    """Raise AlignmentRefused if a camera 4x4 of `stamp` is farther from the newest keyframe than it can have come.

    `keyframes` are those of the map.
    """
    newest = graph.ids[-1]
    limit = reach_of(graph, keyframes, stamp)
    moved = float(np.linalg.norm(map_camera[:3, 3] - graph.pose(newest).translation))
    if limit is not None and moved > limit:
        raise AlignmentRefused(
            f"the window was found in the map, but {moved:.2g} map units away from where the camera was "
            f"{(stamp - keyframes[newest].stamp) * 1e-9:.1f} s before, and it can have come only {limit:.2g}: it may "
            "be another place that looks alike. The window begins a submap, which is joined when two different "
            "stretches of it are found in the map: show the camera other places that it has seen before")
