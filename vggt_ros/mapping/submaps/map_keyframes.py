"""The data that the map keeps of a solved keyframe: depth, color and features at reduced size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.description import Description
from vggt_ros.features.tracks import resize_pixels
from vggt_ros.geometry.camera import nearest_pixels, reduced_size, resize_intrinsics
from vggt_ros.images.compressed import CompressedColor
from vggt_ros.images.mask import resized
from vggt_ros.mapping.submaps.keyframe_graph import KeyframeGraph
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.threads import yield_to_tracking
from vggt_ros.windows.alignment import View
from vggt_ros.windows.keyframe import Keyframe, Window
from vggt_ros.windows.solution import MapKeyframe


def map_keyframes(window: Window, geometry: WindowGeometry, width: int,
                  with_color: Callable[[int], bool] = lambda keyframe: True) -> dict[int, MapKeyframe]:
    """Return the map's data of each keyframe of a solved window, with depth and color of `reduced_size`.

    The color of keyframes that will not be added to the map is not needed: those `with_color` refuses have none.
    """
    height_full, width_full = geometry.depth.shape[1:]
    size = reduced_size(width_full, height_full, width)
    columns, rows = nearest_pixels(width_full, size[0]), nearest_pixels(height_full, size[1])
    images: dict[int, Keyframe] = {keyframe.id: keyframe for keyframe in window.keyframes}
    result = {}
    for row, keyframe in enumerate(geometry.keyframe_ids):
        yield_to_tracking()
        depth = geometry.depth[row][np.ix_(rows, columns)]
        confidence = geometry.confidence[row][np.ix_(rows, columns)]
        if size[0] < width_full and _is_scattered(geometry.depth[row]):
            depth, confidence = _cell_means(geometry.depth[row], geometry.confidence[row], size)
        depth = depth.astype(np.float16)
        depth[~np.isfinite(depth)] = np.nan  # float16 ends at 65504
        excluded = images[keyframe].excluded
        if excluded is not None:
            depth[resized(excluded, depth.shape)] = np.nan
        confidence = np.nan_to_num(confidence)
        color: NDArray[np.uint8] | CompressedColor = np.zeros((0, 0, 3), np.uint8)
        if with_color(keyframe):
            color = CompressedColor(np.asarray(cv2.resize(images[keyframe].image, size, interpolation=cv2.INTER_AREA),
                                               np.uint8))
        result[keyframe] = MapKeyframe(
            keyframe, images[keyframe].stamp,
            resize_intrinsics(geometry.intrinsics[row], size[0] / width_full, size[1] / height_full), depth,
            np.rint(255 * np.clip(confidence, 0, 1)).astype(np.uint8),
            color,
            None if geometry.descriptors is None else geometry.descriptors[row].copy())
    return result


def _is_scattered(depth: NDArray[np.float32]) -> bool:
    """Return True if depth (h, w) is known at single pixels, most of which a smaller map would miss."""
    known = depth > 0
    single = known[1:-1, 1:-1] & ~(known[:-2, 1:-1] | known[2:, 1:-1] | known[1:-1, :-2] | known[1:-1, 2:])
    return bool(2 * single.sum() > known.sum() > 0)


def _cell_means(depth: NDArray[np.float32], confidence: NDArray[np.float32],
                size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return depth, by the mean of inverse depth, and confidence of the known pixels in each cell of a map (w, h)."""
    known = (depth > 0).astype(np.float32)
    per_pixel = (known, known / np.where(known > 0, depth, 1), known * np.nan_to_num(confidence))
    weight, inverse, ranks = (cv2.resize(values, size, interpolation=cv2.INTER_AREA) for values in per_pixel)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight > 0, weight / inverse, np.nan), np.where(weight > 0, ranks / weight, 0)


def window_views(geometry: WindowGeometry, keyframes: Mapping[int, MapKeyframe]) -> dict[int, View]:
    """Return keyframe id to its view in a solved window, in the window's frame and units."""
    steps = [None, *(geometry.step_covariance if geometry.step_covariance is not None
                     else [None] * (len(geometry.keyframe_ids) - 1))]
    return {k: View(camera, keyframes[k], uncertainty=geometry.uncertainty, step_covariance=step)
            for k, camera, step in zip(geometry.keyframe_ids, geometry.window_camera, steps, strict=True)}


def map_views(graph: KeyframeGraph, stored: Mapping[int, MapKeyframe], keyframes: Iterable[int],
              reference: int) -> dict[int, View]:
    """Return the views of solved keyframes in the map, in the frame and units of one of their submap."""
    reference_map, views = graph.pose(reference).inverse(), {}
    for keyframe in keyframes:
        pose = reference_map @ graph.pose(keyframe)
        views[keyframe] = View(pose.apply_pose(np.eye(4)), stored[keyframe], pose.scale)
    return views


def with_depth(keyframe: MapKeyframe, newer: MapKeyframe) -> MapKeyframe:
    """Return a keyframe of the map with the depth of a newer window."""
    return replace(keyframe, depth=newer.depth, confidence=newer.confidence)


def with_description(keyframe: MapKeyframe, found: Description, width: int) -> MapKeyframe:
    """Return a keyframe of the map with the features that were found in its full image, which was `width` wide."""
    pixels = resize_pixels(found.binary.pixels, keyframe.depth.shape[1] / width)
    return replace(keyframe, pixels=pixels, features=found.binary.descriptors, appearance=found.appearance)
