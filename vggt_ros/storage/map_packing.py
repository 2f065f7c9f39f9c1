"""Conversion between the objects of a map and the arrays of its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vggt_ros.features.appearance import VLAD_SIZE
from vggt_ros.geometry.poses import Array, Sim3, pose
from vggt_ros.storage.map_record import KINDS, MapRecord
from vggt_ros.windows.solution import Edge, MapKeyframe


def pack_keyframes(keyframes: Sequence[MapKeyframe]) -> dict[str, Any]:
    """Return the arrays of a MapRecord that hold `keyframes`; at least one."""
    described = [k.descriptor for k in keyframes if k.descriptor is not None]
    appearance = [np.zeros(VLAD_SIZE) if k.appearance is None else k.appearance for k in keyframes]
    return {
        "keyframe_id": np.array([k.id for k in keyframes], np.int64),
        "keyframe_stamp": np.array([k.stamp for k in keyframes], np.int64),
        "keyframe_intrinsics": np.array([k.intrinsics for k in keyframes], np.float64),
        "keyframe_size": np.array([k.depth.shape for k in keyframes], np.int64),
        "keyframe_features": np.array([len(k.features) for k in keyframes], np.int64),
        "keyframe_described": np.array([k.descriptor is not None for k in keyframes], np.bool_),
        "appearance": np.array(appearance, np.float16),
        "depth": np.concatenate([k.depth.ravel() for k in keyframes]),
        "confidence": np.concatenate([k.confidence.ravel() for k in keyframes]),
        "color": np.concatenate([np.asarray(k.color).reshape(-1, 3) for k in keyframes]),
        "feature_pixel": np.concatenate([k.pixels for k in keyframes]),
        "feature": np.concatenate([k.features for k in keyframes]),
        "descriptor": np.array(described, np.float32) if described else np.zeros((0, 0), np.float32),
    }


def unpack_keyframes(record: MapRecord) -> list[MapKeyframe]:
    """Return the keyframes of a record. Arrays are copied, so that a keyframe does not keep the record in memory."""
    pixel_ends, feature_ends = np.cumsum(record.keyframe_size.prod(1)), np.cumsum(record.keyframe_features)
    descriptors = iter(record.descriptor)
    keyframes = []
    for row, (height, width) in enumerate(record.keyframe_size.tolist()):
        pixels = slice(int(pixel_ends[row]) - height * width, int(pixel_ends[row]))
        features = slice(int(feature_ends[row] - record.keyframe_features[row]), int(feature_ends[row]))
        keyframes.append(MapKeyframe(
            int(record.keyframe_id[row]), int(record.keyframe_stamp[row]), record.keyframe_intrinsics[row].copy(),
            record.depth[pixels].copy().reshape(height, width),
            record.confidence[pixels].copy().reshape(height, width),
            record.color[pixels].copy().reshape(height, width, 3),  # not compressed a second time
            next(descriptors).copy() if record.keyframe_described[row] else None,
            record.feature_pixel[features].copy(), record.feature[features].copy(),
            record.appearance[row].astype(np.float32) if record.appearance[row].any() else None))
    return keyframes


def pack_edges(edges: Sequence[Edge]) -> dict[str, Any]:
    """Return the arrays of a MapRecord that hold the edges of the pose graph."""
    poses, scales = pack_similarities([edge.first_second for edge in edges])
    return {
        "edge_first": np.array([edge.first for edge in edges], np.int64),
        "edge_second": np.array([edge.second for edge in edges], np.int64),
        "edge_kind": np.array([KINDS.index(edge.kind) for edge in edges], np.uint8),
        "edge_pose": poses,
        "edge_scale": scales,
        "edge_covariance": np.array([edge.covariance for edge in edges], np.float64).reshape(-1, 7, 7),
    }


def unpack_edges(record: MapRecord) -> list[Edge]:
    """Return the edges of the pose graph of a record."""
    similarities = unpack_similarities(record.edge_pose, record.edge_scale)
    rows = zip(record.edge_first, record.edge_second, record.edge_kind, similarities, record.edge_covariance,
               strict=True)
    return [Edge(int(first), int(second), KINDS[kind], similarity, covariance)
            for first, second, kind, similarity, covariance in rows]


def pack_similarities(similarities: Sequence[Sim3]) -> tuple[Array, Array]:
    """Return poses (n, 4, 4) and scales (n,) of similarities."""
    return (np.array([pose(s.rotation, s.translation) for s in similarities]).reshape(-1, 4, 4),
            np.array([s.scale for s in similarities], np.float64))


def unpack_similarities(poses: Array, scales: Array) -> list[Sim3]:
    """Return the similarities of poses (n, 4, 4) and scales (n,)."""
    return [Sim3.from_pose(matrix, float(scale)) for matrix, scale in zip(poses, scales, strict=True)]
