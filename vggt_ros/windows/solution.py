"""The state of the map, an immutable snapshot that any thread may read; and what became of a window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, Sim3
from vggt_ros.images.compressed import CompressedColor

UNKNOWN, PRIOR, OBSERVED = "UNKNOWN", "PRIOR", "OBSERVED"


@dataclass(frozen=True)
class MetricScale:
    """How well the length of a map unit in meters is known.

    Attributes:
        state: UNKNOWN (`scale.assumed_depth` is used), PRIOR (given by the user or a metric reconstructor, or
            inherited from another submap) or OBSERVED (estimated from sources of metric scale).
        sigma: standard deviation of the logarithm of meters per unit.
        source: name of the source.

    """

    state: str = UNKNOWN
    sigma: float = 1.0
    source: str = "scale.assumed_depth"


@dataclass(frozen=True, eq=False)
class MapKeyframe:
    """The data of a keyframe that stay in the map, about 0.13 MB: never a full image or a full point cloud.

    Attributes:
        id, stamp: the keyframe's.
        intrinsics: float64 (3, 3) for the size (h, w) of the depth, confidence and color images.
        depth: float16 (h, w), units of the window, NaN where unknown.
        confidence: uint8 (h, w), confidence rank times 255.
        color: RGB, uint8 (h, w, 3), or compressed: `np.asarray` gives the pixels of both.
        descriptor: float32 (D,), unit length, the place descriptor by the reconstructor, or None.
        pixels: float32 (m, 2), positions of its ORB features, x and y in pixels of the depth image.
        features: uint8 (m, 32), descriptors of its ORB features, which were detected in the full image.
        appearance: float32 (2048,), unit length, the VLAD place descriptor of `vggt_ros/features/appearance.py`, the
            same for all reconstructors; None only in a map that was saved without it.

    """

    id: int
    stamp: int
    intrinsics: Array
    depth: NDArray[np.float16]
    confidence: NDArray[np.uint8]
    color: NDArray[np.uint8] | CompressedColor
    descriptor: NDArray[np.float32] | None = None
    pixels: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    features: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 32), np.uint8))
    appearance: NDArray[np.float32] | None = None

    @property
    def place_descriptor(self) -> NDArray[np.float32] | None:
        """The place descriptor for loop candidates: the reconstructor's if there is one, else `appearance`."""
        return self.appearance if self.descriptor is None else self.descriptor

    @cached_property
    def median_depth(self) -> float:
        """Median of the known depth, units of the window; NaN if no depth is known."""
        known = self.depth[self.depth > 0]
        return float(np.median(known.astype(np.float32))) if len(known) else float("nan")


@dataclass(frozen=True, eq=False)
class Edge:
    """A relative pose of two windows in the pose graph.

    `kind` is `overlap`, `loop`, or `refused` for a rejected loop.
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
        scale: float64 (n,), map units per unit of the keyframe's window.
        keyframes: keyframe id to its stored data.
        window_ids: int64 (w,), the windows of the graph, each after the one that it is attached to.
        window_origin: float64 (w, 3), position of each window's first keyframe.
        window_scale: float64 (w,), map units per unit of each window.
        edges: relative poses of the windows.
        refused_loops: pairs of windows whose loop candidate failed verification, the newest ones.
        metric: metric scale of the active submap.

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

    def row(self, keyframe: int) -> int:
        """Return the row of a keyframe that is solved; raises KeyError if it is not."""
        if (row := self.index(keyframe)) is None:
            raise KeyError(f"keyframe {keyframe} is not solved")
        return row

    def similarity(self, row: int) -> Sim3:
        """Return `map_keyframe` of the keyframe in a row, with map units per unit of its window as scale."""
        return Sim3.from_pose(self.map_camera[row], float(self.scale[row]))

    def depth(self, keyframe: int) -> NDArray[np.float32]:
        """Return the depth (h, w) of a solved keyframe in map units, NaN where unknown."""
        return self.keyframes[keyframe].depth.astype(np.float32) * np.float32(self.scale[self.row(keyframe)])

    def trajectory(self, submap: int) -> tuple[NDArray[np.int64], Array]:
        """Return stamps (n,) and poses `map_camera` (n, 4, 4) of a submap's keyframes."""
        rows = self.submaps == submap
        return self.stamps[rows], self.map_camera[rows]

    def restricted(self, rows: NDArray[np.int64]) -> Solution:
        """Return a solution of only the keyframes in `rows` (n,), ascending; its windows and edges stay."""
        names = ("ids", "stamps", "submaps", "windows", "map_camera", "scale")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def connected(self, keyframe: int | None) -> Solution:
        """Return the part whose poses relative to a keyframe are known; to the largest submap, if it is not solved."""
        row = None if keyframe is None else self.index(keyframe)
        return self.restricted(np.flatnonzero(
            self.submaps == (self.largest_submap if row is None else self.submaps[row])))

    @property
    def scale_state(self) -> str:
        """UNKNOWN, PRIOR or OBSERVED; see `MetricScale`."""
        return self.metric.state

    @property
    def largest_submap(self) -> int:
        """The submap with the most keyframes, the older one on ties; 0 if there is none."""
        return int(np.bincount(self.submaps).argmax()) if len(self.ids) else 0


@dataclass(frozen=True, eq=False)
class Update:
    """The result of one `Slam.step`.

    Attributes:
        window: id of the window.
        keyframes: ids of the keyframes that it placed, new ones only.
        submap: the submap that they were added to.
        refused: why the reconstructor or the alignment rejected the window, attempt by attempt; empty if none did.
        new_submap: True if it began a submap although there was one before.
        rescaled: factor by which the active submap was scaled, because its metric scale became known or changed.
        seconds: duration of the whole step; `reconstruct_seconds` of reconstruction and alignment.
        report: the reconstructor's statistics.
        loop: what became of the loop candidate that was verified, empty if there was none.
        notes: what the reconstructor says of the window, such as why it is less certain than usual.

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
    notes: tuple[str, ...] = ()


@dataclass
class Counts:
    """Counters of all frames, keyframes, windows and loops, so that nothing is dropped silently.

    Attributes:
        frames, tracked, lost: images received, with a pose, and without one although there is a map.
        relocalized: how often the camera was found again after it was lost.
        keyframes: keyframes selected.
        spaced: keyframes that were chosen farther apart than usual, because windows waited.
        thinned: keyframes removed before reconstruction, because of back-pressure.
        unplaced: keyframes of processed windows that are not in the map.
        turned: keyframes placed by a turn on the spot alone, without depth.
        windows, refused, retried: windows processed, without any successful attempt, and with more than one attempt.
        submaps: submaps that loops have not joined.
        loop_candidates, loops, loops_refused: loop candidates found, loops accepted, and loops rejected.
        released: keyframes removed from the map because of `map.max_keyframes`.

    """

    frames: int = 0
    tracked: int = 0
    lost: int = 0
    relocalized: int = 0
    keyframes: int = 0
    spaced: int = 0
    thinned: int = 0
    unplaced: int = 0
    turned: int = 0
    windows: int = 0
    refused: int = 0
    retried: int = 0
    submaps: int = 0
    loop_candidates: int = 0
    loops: int = 0
    loops_refused: int = 0
    released: int = 0
