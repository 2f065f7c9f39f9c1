"""A whole map as plain arrays: what is saved, and what mapping continues from.

`SCHEMA` has the type and shape of every array; letters are sizes that must be equal in all arrays. Arrays of keyframes
of different sizes are concatenated in the order of keyframes, with the counts in another array.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vggt_ros.features.appearance import VLAD_SIZE
from vggt_ros.geometry.poses import Array
from vggt_ros.windows.solution import OBSERVED, PRIOR, UNKNOWN

KINDS = ("overlap", "loop", "refused", "break")
"""Kinds of relations of windows, by their number in `edge_kind`."""

SCHEMA: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "keyframe_id": ("int64", ("k",)),
    "keyframe_stamp": ("int64", ("k",)),
    "keyframe_submap": ("int64", ("k",)),
    "keyframe_window": ("int64", ("k",)),
    "keyframe_pose": ("float64", ("k", 4, 4)),
    "keyframe_intrinsics": ("float64", ("k", 3, 3)),
    "keyframe_size": ("int64", ("k", 2)),
    "keyframe_features": ("int64", ("k",)),
    "keyframe_described": ("bool", ("k",)),
    "appearance": ("float16", ("k", "v")),
    "depth": ("float16", ("p",)),
    "confidence": ("uint8", ("p",)),
    "color": ("uint8", ("p", 3)),
    "feature_pixel": ("float32", ("f", 2)),
    "feature": ("uint8", ("f", 32)),
    "descriptor": ("float32", ("e", "d")),
    "window_id": ("int64", ("w",)),
    "node_window": ("int64", ("w",)),
    "window_pose": ("float64", ("w", 4, 4)),
    "window_scale": ("float64", ("w",)),
    "anchor": ("int64", ("a",)),
    "edge_first": ("int64", ("m",)),
    "edge_second": ("int64", ("m",)),
    "edge_kind": ("uint8", ("m",)),
    "edge_pose": ("float64", ("m", 4, 4)),
    "edge_scale": ("float64", ("m",)),
    "edge_covariance": ("float64", ("m", 7, 7)),
}


_MAX_ID = 2**53
_MAX_LENGTH, _MAX_SCALE = 1e7, 1e7
"""Bounds of the translation of a pose, and of a scale and its inverse: map units are meters, or near."""
_MIN_VARIANCE, _MAX_VARIANCE = 1e-20, 1e12
"""Bounds of the variances of a relative pose: radians, units and log scale, squared."""


@dataclass(frozen=True, eq=False)
class MapRecord:
    """A map as arrays: k keyframes, w nodes of the pose graph, m edges between them.

    Attributes:
        keyframe_id, keyframe_stamp: rising ids; nanoseconds.
        keyframe_submap, keyframe_window: its submap, and its node.
        keyframe_pose: `node_camera`, optical axes, units of the node.
        keyframe_intrinsics: pinhole matrix for `keyframe_size`, which is height and width of its depth map and image.
        depth, confidence, color: of all pixels; units of the window, NaN where unknown; rank times 255; RGB.
        keyframe_features, feature_pixel, feature: number of binary features (ORB), their pixels (x, y at
            `keyframe_size`), and their descriptors.
        keyframe_described, descriptor: which keyframes have a place descriptor by the reconstructor, and those.
        appearance: place descriptors by `vggt_ros/features/appearance.py`; a row of zeros where there is none.
        window_id, window_pose, window_scale: nodes of the graph, which were windows once and are keyframes now, and the
            similarity `map_node`: p_map = scale R p_node + t. Nodes of removed keyframes may still be there.
        node_window: the window that placed a node.
        anchor: the nodes that fix the gauge, one in each component of the graph.
        edge_first, edge_second, edge_kind: the two nodes; index into `KINDS`.
        edge_pose, edge_scale, edge_covariance: the similarity `first_second` and the covariance of its perturbation on
            the right, [rotation, translation, log scale].
        map_world: pose 4x4 of the world frame of the mapper (the first camera's optical frame) in the z-up frame `map`.
        submap: the submap that grows.
        next_keyframe, next_window: ids are never reused, not even in another session.
        scale_state, scale_sigma, scale_source: state of the metric scale of the submap that grows.

    """

    keyframe_id: NDArray[np.int64]
    keyframe_stamp: NDArray[np.int64]
    keyframe_submap: NDArray[np.int64]
    keyframe_window: NDArray[np.int64]
    keyframe_pose: Array
    keyframe_intrinsics: Array
    keyframe_size: NDArray[np.int64]
    keyframe_features: NDArray[np.int64]
    keyframe_described: NDArray[np.bool_]
    appearance: NDArray[np.float16]
    depth: NDArray[np.float16]
    confidence: NDArray[np.uint8]
    color: NDArray[np.uint8]
    feature_pixel: NDArray[np.float32]
    feature: NDArray[np.uint8]
    descriptor: NDArray[np.float32]
    window_id: NDArray[np.int64]
    node_window: NDArray[np.int64]
    window_pose: Array
    window_scale: Array
    anchor: NDArray[np.int64]
    edge_first: NDArray[np.int64]
    edge_second: NDArray[np.int64]
    edge_kind: NDArray[np.uint8]
    edge_pose: Array
    edge_scale: Array
    edge_covariance: Array
    submap: int = 0
    next_keyframe: int = 0
    next_window: int = 0
    scale_state: str = "UNKNOWN"
    scale_sigma: float = 1.0
    scale_source: str = ""
    map_world: Array = field(default_factory=lambda: np.eye(4))

    def __len__(self) -> int:
        """Return the number of keyframes."""
        return len(self.keyframe_id)

    def check(self) -> None:
        """Check everything that loading a map relies on.

        Raises:
            ValueError: the text begins with the name of the wrong array.

        """
        self._check_shapes()
        pixels = self.keyframe_size.prod(1)
        windows, ids = self.window_id, self.keyframe_id
        for name, valid, problem in (
            ("window_id", _different(windows) and windows.min(initial=0) >= 0, "ids must differ"),
            ("node_window", self.node_window.max(initial=-1) < self.next_window, "an id is not below next_window"),
            ("keyframe_id", _increasing(ids) and ids.min(initial=0) >= 0, "ids must rise"),
            ("keyframe_id", ids.max(initial=-1) < self.next_keyframe, "an id is not below next_keyframe"),
            ("keyframe_stamp", self.keyframe_stamp.min(initial=0) >= 0, "a stamp is negative"),
            ("keyframe_submap", self._submaps_exist(), "no such submap"),
            ("keyframe_window", np.isin(self.keyframe_window, windows).all(), "no such window"),
            ("keyframe_id", max(self.next_keyframe, self.next_window) < _MAX_ID, "an id is too large"),
            ("keyframe_pose", _rigid(self.keyframe_pose), "not a pose"),
            ("keyframe_size", ((self.keyframe_size > 0) & (self.keyframe_size <= 8192)).all(),
             "not the size of an image"),
            ("keyframe_intrinsics", self._are_pinholes(), "not the pinhole matrix of such an image"),
            ("depth", pixels.sum() == len(self.depth), "the number of pixels does not fit keyframe_size"),
            ("depth", not (self.depth <= 0).any() and not np.isinf(self.depth).any(), "a depth is not positive"),
            ("keyframe_features", self._counts_fit(), "the counts do not fit feature"),
            ("keyframe_described", self.keyframe_described.sum() == len(self.descriptor),
             "the count does not fit descriptor"),
            ("appearance", self.appearance.shape[1] in (0, VLAD_SIZE), f"not {VLAD_SIZE} numbers for each keyframe"),
            ("window_pose", _rigid(self.window_pose), "not a pose"),
            ("window_scale", _are_scales(self.window_scale), "a scale is not positive, or out of range"),
            ("anchor", len(self.anchor) > 0 and _different(self.anchor) and np.isin(self.anchor, windows).all(),
             "no such window, or the same one twice"),
            ("edge_first", np.isin(self.edge_first, windows).all(), "no such window"),
            ("edge_second", np.isin(self.edge_second, windows).all(), "no such window"),
            ("edge_kind", (self.edge_kind < len(KINDS)).all(), "no such kind"),
            ("edge_pose", _rigid(self.edge_pose), "not a pose"),
            ("edge_scale", _are_scales(self.edge_scale), "a scale is not positive, or out of range"),
            ("edge_covariance", self._are_covariances(), "not a covariance, or out of range"),
            ("feature_pixel", self._are_in_images(), "a pixel is outside of its image"),
            ("scale_state", self.scale_state in (UNKNOWN, PRIOR, OBSERVED), "no such state"),
            ("scale_sigma", 0 < self.scale_sigma < 10, "not a sigma"),
            ("edge_second", self._is_connected(), "a window is no anchor, and has no overlap with an earlier one"),
            ("edge_second", self._breaks_are_valid(),
             "a break leads to no anchor, to the same one twice, or not from an earlier window"),
            ("map_world", self.map_world.shape == (4, 4) and _rigid(self.map_world[None]), "not a pose"),
        ):
            if not valid:
                raise ValueError(f"{name}: {problem}")

    def _submaps_exist(self) -> bool:
        """Return True if every keyframe is in a submap that has an anchor, and the submap that grows has keyframes."""
        submaps = self.keyframe_submap
        return bool(submaps.min(initial=0) >= 0 and self.submap in submaps
                    and submaps.max(initial=0) < len(self.anchor))

    def _counts_fit(self) -> bool:
        """Return True if the keyframes' numbers of features are those of all features."""
        counts = self.keyframe_features
        return bool(counts.min(initial=0) >= 0 and counts.max(initial=0) <= len(self.feature)
                    and counts.sum() == len(self.feature))

    def _are_pinholes(self) -> bool:
        """Return True if the matrices are those of images of their sizes."""
        k, sides = self.keyframe_intrinsics, self.keyframe_size[:, ::-1].astype(np.float64)
        focal, center = k[:, [0, 1], [0, 1]], k[:, :2, 2]
        return bool((focal > 1e-2 * sides).all() and (focal < 1e4 * sides).all() and (k[:, 2] == [0, 0, 1]).all()
                    and (np.abs(center) < 10 * sides).all() and (k[:, 1, 0] == 0).all())

    def _are_covariances(self) -> bool:
        """Return True if the covariances are symmetric, and positive within what a solve can resolve."""
        covariance = self.edge_covariance
        asymmetry = np.abs(covariance - covariance.transpose(0, 2, 1)).max(initial=0)
        if not np.abs(covariance).max(initial=0) < _MAX_VARIANCE or not asymmetry < 1e-9:
            return False
        return bool((np.linalg.eigvalsh(covariance) > _MIN_VARIANCE).all())

    def _are_in_images(self) -> bool:
        """Return True if every feature is in its keyframe's image."""
        if not self._counts_fit():
            return False
        sides = np.repeat(self.keyframe_size[:, ::-1], self.keyframe_features, axis=0)
        return bool((self.feature_pixel > -1).all() and (self.feature_pixel < sides).all())

    def _is_connected(self) -> bool:
        """Return True if every window is an anchor, or overlaps with one before it."""
        overlaps = self.edge_kind == KINDS.index("overlap")
        first = dict(zip(self.edge_second[overlaps].tolist(), self.edge_first[overlaps].tolist(), strict=True))
        order = {window: row for row, window in enumerate(self.window_id.tolist())}
        anchors = set(self.anchor.tolist())
        return all(window in anchors or order.get(first.get(window, window), row) < row
                   for window, row in order.items())

    def _breaks_are_valid(self) -> bool:
        """Return True if every break leads to another anchor, from a window before it."""
        breaks = self.edge_kind == KINDS.index("break")
        order = {window: row for row, window in enumerate(self.window_id.tolist())}
        first, second = self.edge_first[breaks].tolist(), self.edge_second[breaks].tolist()
        return (_different(self.edge_second[breaks]) and set(second) <= set(self.anchor.tolist())
                and all(order.get(one, len(order)) < order.get(other, -1)
                        for one, other in zip(first, second, strict=True)))

    def _check_shapes(self) -> None:
        sizes: dict[str, int] = {}
        for name, (dtype, shape) in SCHEMA.items():
            values = getattr(self, name)
            expected = tuple(sizes.setdefault(side, length) if isinstance(side, str) else side
                             for side, length in zip(shape, values.shape, strict=False))
            if values.dtype != dtype or len(values.shape) != len(shape) or values.shape != expected:
                raise ValueError(f"{name}: {values.dtype}{list(values.shape)}, expected {dtype}{list(expected)}")
            if values.dtype.kind == "f" and name != "depth" and not np.isfinite(values).all():
                raise ValueError(f"{name}: not finite")
        if not sizes["k"]:
            raise ValueError("keyframe_id: there are no keyframes")


def _increasing(values: NDArray[np.int64]) -> bool:
    return bool((np.diff(values) > 0).all())


def _different(values: NDArray[np.int64]) -> bool:
    return len(np.unique(values)) == len(values)


def _are_scales(values: Array) -> bool:
    return bool((values > 1 / _MAX_SCALE).all() and (values < _MAX_SCALE).all())


def _rigid(poses: Array) -> bool:
    """Return True if all of `poses` (n, 4, 4) are finite, with a rotation and the last row of a pose, and not far."""
    if not np.isfinite(poses).all() or not (np.abs(poses[:, :3, 3]) < _MAX_LENGTH).all():
        return False
    rotation = poses[:, :3, :3]
    deviation = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(initial=0)
    return bool(deviation < 1e-6 and (np.linalg.det(rotation) > 0).all()
                and (poses[:, 3] == [0, 0, 0, 1]).all())
