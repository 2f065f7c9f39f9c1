"""What the pipeline hands out: immutable snapshots that any thread may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Sim3
from vggt_ros.windows.keyframe import Window

Array = NDArray[np.float64]

UNKNOWN, PRIOR, OBSERVED = "UNKNOWN", "PRIOR", "OBSERVED"


@dataclass(frozen=True)
class MetricScale:
    """How well the map's unit is known to be the meter.

    Attributes:
        state: UNKNOWN (`scale.assumed_depth` stands in), PRIOR (given or taken over) or OBSERVED.
        sigma: standard deviation of the logarithm of the meters in a unit.
        source: who says so.

    """

    state: str = UNKNOWN
    sigma: float = 1.0
    source: str = "scale.assumed_depth"


@dataclass(frozen=True, eq=False)
class Frame:
    """An image as the pipeline takes it: rectified, at the reconstructor's working size.

    Attributes:
        stamp: nanoseconds, exactly the message's.
        image: RGB uint8 (H, W, 3).
        intrinsics: float64 (3, 3) for this size.
        calibrated: False if `intrinsics` are only assumed.

    """

    stamp: int
    image: NDArray[np.uint8]
    intrinsics: Array
    calibrated: bool = True


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """The pose of one frame, given as soon as it came.

    Attributes:
        stamp: the frame's, nanoseconds.
        state: `INITIALIZING` (nothing solved yet), `TRACKING`, `DEGRADED` (tracked, with less to go by: `reason` says
            what is missing, the covariance what it costs), `RELOCALIZING` (the frame was looked for in the map and
            not found yet) or `LOST` (it shows too little for that, or the map has nothing near where it is expected);
            in these and the first the poses are None.
        map_camera: 4x4 pose of the camera in the map, corrected.
        odom_camera: 4x4 pose in the odometry frame, continuous through corrections of the map.
        map_odom: 4x4 pose that takes what the map was corrected by.
        covariance: float64 (6, 6) of `map_camera`, perturbed on the right, [rotation, translation], radians and meters.
        reference: id of the solved keyframe that the pose was measured against.
        reference_camera: 4x4 pose in that keyframe's frame, in units of its window.
        inliers: points behind the pose.
        keyframe: id, if the frame became a keyframe.
        window: the window that the keyframe completed, for `Slam.step`.
        reason: why the state is `DEGRADED`, in words.

    """

    stamp: int
    state: str
    map_camera: Array | None = None
    odom_camera: Array | None = None
    map_odom: Array = field(default_factory=lambda: np.eye(4))
    covariance: Array | None = None
    reference: int | None = None
    reference_camera: Array | None = None
    inliers: int = 0
    keyframe: int | None = None
    window: Window | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class MapKeyframe:
    """What is kept of a keyframe for good, about 0.2 MB: never a full image or a full cloud.

    Attributes:
        id, stamp: the keyframe's.
        intrinsics: float64 (3, 3) for the size (h, w) of the maps below.
        depth: float16 (h, w), units of the window, NaN where unknown.
        confidence: uint8 (h, w), rank times 255.
        color: uint8 (h, w, 3), RGB.
        descriptor: float32 (D,), unit length, of the place by the reconstructor, or None.
        pixels: float32 (m, 2), where its binary features are, x and y in the maps' pixels.
        features: uint8 (m, 32), ORB, found in the full image.
        appearance: float32 (2048,), unit length, of the place by `vggt_ros/appearance.py`, whoever reconstructs; None
            only in a map saved without.

    """

    id: int
    stamp: int
    intrinsics: Array
    depth: NDArray[np.float16]
    confidence: NDArray[np.uint8]
    color: NDArray[np.uint8]
    descriptor: NDArray[np.float32] | None = None
    pixels: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    features: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 32), np.uint8))
    appearance: NDArray[np.float32] | None = None

    @property
    def look(self) -> NDArray[np.float32] | None:
        """What its place is compared with others by: the reconstructor's descriptor if there is one."""
        return self.appearance if self.descriptor is None else self.descriptor

    @cached_property
    def median_depth(self) -> float:
        """The median of what is known of the depth, units of the window; NaN if nothing is."""
        known = self.depth[self.depth > 0]
        return float(np.median(known.astype(np.float32))) if len(known) else float("nan")


@dataclass(frozen=True, eq=False)
class Edge:
    """A measured relation of two windows in the pose graph.

    `kind` is `overlap`, `loop`, or `refused` for a loop that is not believed.
    `covariance` (7, 7) is of the perturbation of `first_second` on the right, [rotation, translation, log scale].
    """

    first: int
    second: int
    kind: str
    first_second: Sim3
    covariance: Array


@dataclass(frozen=True, eq=False)
class Solution:
    """The newest state of the map, in the order of keyframe ids (n keyframes).

    Attributes:
        version: rises with every change.
        ids, stamps, submaps, windows: int64 (n,); `windows` is the id of the window that placed the keyframe.
        map_camera: float64 (n, 4, 4), camera poses, optical axes; the world is the first camera's optical frame.
        scale: float64 (n,), map units in a unit of the keyframe's window.
        keyframes: keyframe id to what is kept of it.
        window_ids: int64 (w,), the windows of the graph, each after the one that it hangs on.
        window_origin: float64 (w, 3), where each begins; `window_scale` (w,), map units in a unit of it.
        edges: relations of the windows.
        refused_loops: pairs of windows that seemed to see the same place until that was verified, the newest ones.
        metric: what is known of the unit of the submap that grows.

    """

    version: int = 0
    ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    stamps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    submaps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    windows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    map_camera: Array = field(default_factory=lambda: np.zeros((0, 4, 4)))
    scale: Array = field(default_factory=lambda: np.zeros(0))
    keyframes: Mapping[int, MapKeyframe] = field(default_factory=dict)
    window_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    window_origin: Array = field(default_factory=lambda: np.zeros((0, 3)))
    window_scale: Array = field(default_factory=lambda: np.zeros(0))
    edges: tuple[Edge, ...] = ()
    refused_loops: tuple[tuple[int, int], ...] = ()
    metric: MetricScale = MetricScale()

    def __len__(self) -> int:
        """Return the number of solved keyframes."""
        return len(self.ids)

    def index(self, keyframe: int) -> int | None:
        """Return the row of a keyframe id, or None if it is not solved."""
        row = int(np.searchsorted(self.ids, keyframe))
        return row if row < len(self.ids) and self.ids[row] == keyframe else None

    @property
    def scale_state(self) -> str:
        """UNKNOWN, PRIOR or OBSERVED; see `MetricScale`."""
        return self.metric.state

    @property
    def largest_submap(self) -> int:
        """The submap with the most keyframes, the older on ties; 0 if there is none."""
        return int(np.bincount(self.submaps).argmax()) if len(self.ids) else 0


@dataclass(frozen=True, eq=False)
class Update:
    """What one `Slam.step` did.

    Attributes:
        window: id of the window.
        keyframes: ids of the keyframes that it placed, new ones only.
        submap: the submap that they went to.
        refused: why the reconstructor or the alignment refused, empty if neither did.
        new_submap: True if a submap began here although there was one before.
        rescaled: by how much the submap that grows was made larger, since its scale became known, or better known.
        seconds: of the whole step; `reconstruct_seconds` of the reconstructor alone.
        report: the reconstructor's figures.
        loop: what became of a place that seemed to be seen again, empty if none was looked at.

    """

    window: int
    keyframes: tuple[int, ...]
    submap: int
    refused: str = ""
    new_submap: bool = False
    rescaled: float = 1.0
    seconds: float = 0.0
    reconstruct_seconds: float = 0.0
    report: Mapping[str, float] = field(default_factory=dict)
    loop: str = ""


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points (n, 3) float32, colors RGB (n, 3) uint8, confidence rank (n,) float32."""

    points: NDArray[np.float32]
    colors: NDArray[np.uint8]
    confidence: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.points)

    def moved(self, target_source: Array) -> PointCloud:
        """Return the cloud in another frame, by the pose 4x4 of its own there."""
        turn, shift = target_source[:3, :3].T.astype(np.float32), target_source[:3, 3].astype(np.float32)
        return PointCloud(self.points @ turn + shift, self.colors, self.confidence)


@dataclass
class Counts:
    """Nothing is lost without being counted here."""

    frames: int = 0
    tracked: int = 0
    lost: int = 0
    relocalized: int = 0
    keyframes: int = 0
    thinned: int = 0
    unplaced: int = 0
    windows: int = 0
    refused: int = 0
    retried: int = 0
    submaps: int = 0
    loop_candidates: int = 0
    loops: int = 0
    loops_refused: int = 0
    released: int = 0
