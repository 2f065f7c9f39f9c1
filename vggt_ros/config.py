"""Every setting of vggt_ros, defined once: default, unit, range and one line of explanation.

The ROS parameters, `config/slam.yaml`, `--set key=value` and docs/reference/parameters.md are all made from, or tested
against, the dataclasses below. A setting's name is `group.field`, or just `field` for those of `Config` itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vggt_ros.settings import ConfigError, Setting, Value, setting, walk


@dataclass(frozen=True)
class CameraConfig:
    """Images and their calibration."""

    transport: str = setting("raw", "Subscribe to sensor_msgs/Image or, at `<image>/compressed`, to CompressedImage.",
                              choices=("raw", "compressed"))
    rectified: str = setting("auto", "Whether images are rectified; `auto`: yes, if the topic's name contains `rect`.",
                              choices=("auto", "true", "false"))
    fov: float = setting(65.0, "Horizontal field of view that is assumed without a calibration.",
                          unit="deg", low=20.0, high=150.0)
    info_timeout: float = setting(2.0, "Wait for CameraInfo, before the field of view is assumed.",
                                   unit="s", low=0.0, high=60.0)


@dataclass(frozen=True)
class KeyframeConfig:
    """Selection of keyframes, by parallax: windows need baseline more than they need images."""

    min_parallax: float = setting(28.0, "Median image motion since the last keyframe that triggers the next one.",
                                   unit="px at 640 px width", low=2.0, high=200.0)
    min_survival: float = setting(0.6, "A keyframe is also made when fewer of the last one's tracks survive.",
                                   unit="fraction", low=0.1, high=0.95)


@dataclass(frozen=True)
class WindowConfig:
    """The sliding window of keyframes that is reconstructed at once."""

    size: int = setting(8, "Keyframes in a window (N).", low=3, high=64)
    overlap: int = setting(3, "Keyframes shared with the previous window (M).", low=1, high=32)
    flush_after: float = setting(3.0, "A partial window is solved after this time without a new keyframe; 0: never.",
                                  unit="s", low=0.0, high=60.0)
    max_waiting: int = setting(2, "Windows that may wait for the reconstructor; with more, keyframes are thinned.",
                                low=1, high=16)


@dataclass(frozen=True)
class MultiviewConfig:
    """The CPU reconstructor."""

    width: int = setting(800, "Longest side of the images it uses; smaller images are not enlarged.",
                          unit="px", low=320, high=1920)
    corners: int = setting(600, "Corners detected in a keyframe.", low=100, high=5000)
    focal_sigma: float = setting(0.0, "Relative sigma of a calibrated focal length; 0: it is kept fixed.",
                                  unit="fraction", low=0.0, high=0.1)
    readout: float = setting(-1.0, "Time from the first to the last row of a rolling shutter; negative: estimated.",
                              unit="s", low=-1.0, high=0.1)
    depth_width: int = setting(320, "Width of its depth maps.", unit="px", low=80, high=800)


@dataclass(frozen=True)
class VggtConfig:
    """The network that reconstructs a window on a GPU."""

    weights: str = setting("facebook/VGGT-1B", "Hugging Face repository, folder or file (.safetensors, .pt) of the "
                            "weights; mind their license.")
    width: int = setting(518, "Width of the images it uses, rounded to a multiple of 14; smaller needs less memory.",
                          unit="px", low=112, high=1036)
    device: str = setting("auto", "Device; `auto`: the GPU if there is one.",
                           choices=("auto", "cuda", "cpu"))
    dtype: str = setting("auto", "Type of the matrices; `auto`: bfloat16 on a GPU that has it, float16 on an older "
                          "one, float32 on a CPU.", choices=("auto", "float32", "bfloat16", "float16"))
    outputs: str = setting("depth", "What is computed besides the cameras' poses.",
                            choices=("depth", "depth,points", "depth,tracks", "depth,points,tracks"))
    reuse_tokens: bool = setting(True, "Reuse the encoder's tokens of shared keyframes in the next window.")
    compile: bool = setting(False, "Compile the aggregator (torch.compile) for full windows; loading takes minutes "
                             "longer. If it fails, the network runs uncompiled and the status gives the reason.")
    memory: float = setting(0.0, "Memory limit; 0: all that is free. Windows that need more are split.",
                             unit="GB", low=0.0, high=1000.0)
    edge_jump: float = setting(0.0, "Depth is dropped where its logarithm jumps by more between pixels; 0: off.",
                                low=0.0, high=10.0)
    min_raw_confidence: float = setting(1.0, "Depth of lower raw confidence is dropped, as in the sky; 1: off.",
                                         low=1.0, high=1000.0)
    far: float = setting(0.0, "Depth beyond this multiple of the window's median is dropped; 0: off.",
                          unit="median depths", low=0.0, high=1000.0)


@dataclass(frozen=True)
class AlignmentConfig:
    """Limits within which the alignment of a window with the map is accepted."""

    min_pixels: int = setting(500, "Pixels with depth on both sides that a shared keyframe needs.",
                               low=20, high=100000)
    max_rotation: float = setting(5.0, "Largest disagreement of the shared keyframes in rotation.",
                                   unit="deg", low=0.1, high=45.0)
    max_translation: float = setting(0.15, "Largest disagreement in position, as a fraction of the median depth.",
                                      unit="fraction", low=0.005, high=1.0)
    max_scale: float = setting(0.18, "Largest scatter of the depth ratio (robust sigma of its logarithm).",
                                low=0.01, high=1.0)


@dataclass(frozen=True)
class LoopConfig:
    """Recognition and verification of places that were seen before."""

    enabled: bool = setting(True, "Close loops and join submaps where a place is seen again.")
    min_gap: int = setting(20, "Least number of keyframes between the two visits of a place.", low=5, high=10000)
    candidates: int = setting(12, "Most similar keyframes that are checked for each new one.", low=1, high=64)
    drift: float = setting(0.1, "Largest expected drift, as a fraction of the path between two keyframes; places "
                            "farther apart are not compared.", unit="fraction", low=0.005, high=10.0)
    min_matches: int = setting(20, "Features that must agree on the relative pose of two keyframes before they are "
                                "reconstructed together.", low=8, high=300)


@dataclass(frozen=True)
class ScaleConfig:
    """Metric scale: how many meters a map unit is."""

    assumed_depth: float = setting(2.0, "Median depth of the first window while the scale is unknown.",
                                    unit="m", low=0.01, high=1000.0)
    factor: float = setting(0.0, "True length divided by the map's initial length; 0: unknown.",
                             low=0.0, high=1000.0, live=True)
    odometry: str = setting("auto", "Another odometry, in meters: on the topic `odometry`, or in TF; `auto`: in TF "
                             "with `tf.mode: map_to_odom`.", choices=("auto", "none", "topic", "tf"))
    depth: bool = setting(False, "Scale from a depth image on the topic `depth`, registered to the camera.")
    camera_height: float = setting(0.0, "Height of the camera above level ground that it sees; 0: unknown.",
                                    unit="m", low=0.0, high=100.0)
    imu: bool = setting(False, "Gravity and scale from sensor_msgs/Imu on the topic `imu`; tried on rendered "
                         "motion only.")
    max_sigma: float = setting(0.015, "Largest sigma of a scale that counts as observed.",
                                unit="fraction", low=0.001, high=0.2)


@dataclass(frozen=True)
class TrackingConfig:
    """The pose of every image between windows."""

    features: int = setting(500, "Corners that are tracked from image to image.", low=50, high=5000)
    min_inliers: int = setting(20, "Least number of inliers of a pose that is published.", low=6, high=1000)


@dataclass(frozen=True)
class MapConfig:
    """The point map and where maps are saved."""

    voxel: float = setting(0.02, "Edge of a voxel; one point is kept in each.",
                            unit="m", low=0.001, high=10.0)
    max_points: int = setting(2_000_000, "Largest number of points; with more, the edge of the voxels is doubled.",
                               low=1000, high=100_000_000)
    min_confidence: float = setting(0.25, "Points of lower confidence rank are left out of the map.",
                                     unit="rank", low=0.0, high=1.0, live=True)
    max_depth: float = setting(8.0, "Points farther away than this, in median depths of their keyframe, are left out.",
                                unit="median depths", low=1.0, high=1000.0, live=True)
    max_keyframes: int = setting(2000, "Largest number of keyframes, about 0.3 MB each; with more, those with the "
                                  "fewest points in the map are removed.", low=100, high=1_000_000)
    kept_width: int = setting(200, "Width of the depth and color that are kept of a keyframe.",
                               unit="px", low=40, high=1024)
    folder: str = setting("~/.ros/vggt_maps", "Folder of saved maps; services write only there.")
    name: str = setting("map", "Name of the saved map inside the folder.", live=True)
    load: bool = setting(False, "Load the map `map.name` at the start; the mode localization always does.")


@dataclass(frozen=True)
class GridConfig:
    """The occupancy grid."""

    resolution: float = setting(0.05, "Edge of a cell.", unit="m", low=0.005, high=10.0)
    min_height: float = setting(0.15, "Lowest z in `map` of an obstacle; what is lower is floor.",
                                 unit="m", low=-100.0, high=100.0)
    max_height: float = setting(1.0, "Highest z in `map` of an obstacle; the robot passes under what is higher.",
                                 unit="m", low=-100.0, high=100.0)
    max_range: float = setting(8.0, "Length of the rays; nothing beyond it is an obstacle.",
                                unit="m", low=0.1, high=1000.0)
    min_confidence: float = setting(0.3, "Depth of lower confidence rank is ignored.",
                                     unit="rank", low=0.0, high=1.0)
    max_cells: int = setting(1500, "Largest number of cells along a side; a larger map is cropped around its middle.",
                              low=10, high=10000)


@dataclass(frozen=True)
class TfConfig:
    """Frames and transforms, after REP-103 and REP-105."""

    mode: str = setting("map_odom_base", "Which transforms are published.",
                         choices=("map_odom_base", "map_to_odom", "map_to_base", "none"))
    map_frame: str = setting("map", "Name of the map frame.")
    odom_frame: str = setting("odom", "Name of the odometry frame.")
    base_frame: str = setting("base_link", "Name of the robot's base frame.")
    base_timeout: float = setting(2.0, "Wait for the transform base <- camera, before the camera is taken as level.",
                                   unit="s", low=0.0, high=60.0)
    transform_tolerance: float = setting(0.1, "Time by which map -> odom is dated ahead.", unit="s", low=0.0, high=5.0)


@dataclass(frozen=True)
class Config:
    """All settings."""

    reconstructor: str = setting("auto", "Reconstructor of the windows; `auto`: vggt if there are a GPU and weights "
                                  "on disk, else multiview.", choices=("auto", "vggt", "multiview"))
    mode: str = setting("mapping", "`localization`: only localize the camera in the loaded map, which never grows.",
                         choices=("mapping", "localization"))
    seed: int = setting(0, "Seed of everything random.", low=0, high=2**31 - 1)
    camera: CameraConfig = field(default_factory=CameraConfig)
    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    multiview: MultiviewConfig = field(default_factory=MultiviewConfig)
    vggt: VggtConfig = field(default_factory=VggtConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    loops: LoopConfig = field(default_factory=LoopConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    map: MapConfig = field(default_factory=MapConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    tf: TfConfig = field(default_factory=TfConfig)

    def __post_init__(self) -> None:
        """Check every value, and those that depend on each other."""
        for one, value in self:
            one.check(value)
        if self.windows.overlap >= self.windows.size:
            raise ConfigError(f"windows.overlap: {self.windows.overlap} must be less than windows.size, "
                              f"{self.windows.size}")
        if self.grid.min_height >= self.grid.max_height:
            raise ConfigError(f"grid.min_height: {self.grid.min_height} must be less than grid.max_height, "
                              f"{self.grid.max_height}")
        if self.odometry_source == "tf" and self.tf.mode not in ("map_to_odom", "none"):
            raise ConfigError(f"scale.odometry: tf, but with tf.mode {self.tf.mode} what is in TF is our own odometry; "
                              "set tf.mode to map_to_odom or none")

    @property
    def odometry_source(self) -> str:
        """Where another odometry comes from: none, topic or tf."""
        automatic = "tf" if self.tf.mode == "map_to_odom" else "none"
        return automatic if self.scale.odometry == "auto" else self.scale.odometry

    def __iter__(self) -> Iterator[tuple[Setting, Value]]:
        """Yield every setting with its value, in the order of definition."""
        yield from walk(self)

    def replace(self, changes: Mapping[str, Any]) -> Config:
        """Return a copy with the settings `changes` (dotted name to value).

        Raises:
            ConfigError: an unknown name or a value that does not fit.

        """
        known = {one.name: one for one, _ in self}
        groups: dict[str, dict[str, Any]] = {}
        top: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in known:
                raise ConfigError(f"{name}: no such setting; there are {', '.join(known)}")
            group, _, key = name.rpartition(".")
            (groups.setdefault(group, {}) if group else top)[key] = known[name].check(value)
        for group, values in groups.items():
            top[group] = dataclasses.replace(getattr(self, group), **values)
        return dataclasses.replace(self, **top)

    def parse(self, assignments: list[str]) -> Config:
        """Return a copy with `key=value` texts applied; raises ConfigError as `replace` does."""
        known = {one.name: one for one, _ in self}
        changes: dict[str, Value] = {}
        for text in assignments:
            name, equals, value = text.partition("=")
            if not equals:
                raise ConfigError(f"{text!r}: expected key=value")
            if name not in known:
                raise ConfigError(f"{name}: no such setting; there are {', '.join(known)}")
            changes[name] = known[name].parse(value)
        return self.replace(changes)
