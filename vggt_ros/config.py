"""Every setting of vggt_ros, declared once: default, unit, range and a one-line description.

ROS parameters, `config/slam.yaml` and `--set` are generated from them. A name is `group.field`, or `field` in `Config`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vggt_ros import plugins
from vggt_ros.settings import ConfigError, Setting, Value, is_map_name, setting, unknown_setting, walk

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class CameraConfig:
    """Images and their calibration."""

    transport: str = setting("raw", "Subscribe to sensor_msgs/Image or, at `<image>/compressed`, to CompressedImage.",
                             choices=("raw", "compressed"))
    rectified: str = setting("auto", "Are the images rectified already? `auto`: yes, if the topic's name has `rect`.",
                             choices=("auto", "true", "false"))
    fov: float = setting(65.0, "Field of view along the longer side that is assumed without a calibration.",
                         unit="deg", low=20.0, high=150.0)
    mask: str = setting("", "Picture of the size of the images, black where they are left out (the robot's own body, a "
                        "logo); parts that never move are also found without it.")
    info_timeout: float = setting(2.0, "How long to wait for CameraInfo before the field of view is assumed.",
                                  unit="s", low=0.0, high=60.0)
    max_step: float = setting(1.0, "Images whose stamps are older than the last one by less are late and left out; "
                              "larger steps back are jumps of time.", unit="s", low=0.01, high=3600.0)


@dataclass(frozen=True)
class KeyframeConfig:
    """Keyframe selection: by parallax, because reconstruction needs baseline more than it needs frames."""

    min_parallax: float = setting(28.0, "Median image motion since the last keyframe at which a new one is made.",
                                  unit="px at 640 px on the longer side", low=2.0, high=200.0)
    min_survival: float = setting(0.6, "A keyframe is also made when a smaller fraction of the last one's tracks "
                                  "is left.",
                                  unit="fraction", low=0.1, high=0.95)
    max_interval: float = setting(1.0, "Time after which 40 % of `min_parallax` are enough for a keyframe.",
                                  unit="s", low=0.1, high=60.0)


@dataclass(frozen=True)
class WindowConfig:
    """The sliding window of keyframes that are reconstructed together."""

    size: int = setting(8, "Keyframes in a window (N).", low=3, high=64)
    overlap: int = setting(3, "Keyframes shared with the previous window (M).", low=1, high=32)
    flush_after: float = setting(3.0, "A partial window is processed after so long without a new keyframe; 0: never.",
                                 unit="s", low=0.0, high=60.0)
    deadline: float = setting(120.0, "The reconstructor hangs if a window takes longer and it makes no progress; its "
                              "process is killed and started anew.", unit="s", low=1.0, high=3600.0)
    max_waiting: int = setting(2, "Most windows that wait for the reconstructor; beyond it keyframes are thinned.",
                               low=1, high=16)


@dataclass(frozen=True)
class AlignmentConfig:
    """When the alignment of a window to the map by their shared keyframes is accepted."""

    min_pixels: int = setting(500, "Fewest pixels of a shared keyframe with depth in both window and map.",
                              low=20, high=100000)
    max_rotation: float = setting(5.0, "Largest rotation error of a shared keyframe after alignment.",
                                  unit="deg", low=0.1, high=45.0)
    max_translation: float = setting(0.15, "Largest position error of a shared keyframe, over its median depth.",
                                     unit="fraction", low=0.005, high=1.0)
    max_scale: float = setting(0.18, "Largest robust sigma of the log ratio of depths in the shared keyframes.",
                               low=0.01, high=1.0)


@dataclass(frozen=True)
class LoopConfig:
    """Loop candidates, their verification, and loop closure."""

    enabled: bool = setting(True, "Close loops, and join submaps, where a place is revisited.")
    min_gap: int = setting(20, "Fewest keyframes between two visits of a place.", low=5, high=10000)
    candidates: int = setting(12, "Most similar keyframes that are compared with each new one.", low=1, high=64)
    drift: float = setting(0.1, "Largest drift of the map, as a fraction of the path between two keyframes; "
                           "places farther apart are not compared, and loops that ask for more not accepted.",
                           unit="fraction", low=0.005, high=10.0)
    min_matches: int = setting(20, "Fewest feature matches that agree on the relative pose of two keyframes, before "
                               "they are reconstructed together.", low=8, high=300)


@dataclass(frozen=True)
class ScaleConfig:
    """Metric scale: the length of a map unit in meters."""

    assumed_depth: float = setting(2.0, "While scale is unknown, the first window's median depth is set to this.",
                                   unit="m", low=0.01, high=1000.0)
    factor: float = setting(0.0, "True length over the map's initial length, to set the scale; 0: unknown.",
                            low=0.0, high=1000.0, live=True)
    odometry: str = setting("auto", "Metric odometry of another source: on the topic `odometry`, or in TF; `auto`: "
                            "in TF with `tf.mode: map_to_odom`, else none.", choices=("auto", "none", "topic", "tf"))
    depth: bool = setting(False, "Estimate scale from depth images on the topic `depth`, registered to the camera.")
    camera_height: float = setting(0.0, "Height of the camera above level ground in its view; 0: unknown.",
                                   unit="m", low=0.0, high=100.0)
    imu: bool = setting(False, "Estimate gravity and scale from sensor_msgs/Imu on the topic `imu`; tried on "
                        "rendered motion only.")
    max_sigma: float = setting(0.015, "Largest sigma at which the scale counts as observed.",
                               unit="fraction", low=0.001, high=0.2)
    require: bool = setting(False, "Withhold `map` -> `odom`, grid and map while the scale is not OBSERVED, so that "
                            "nobody drives in units that are not meters.")


@dataclass(frozen=True)
class TrackingConfig:
    """The pose of every image between windows."""

    features: int = setting(500, "Features tracked from frame to frame.", low=50, high=5000)
    min_inliers: int = setting(20, "Fewest inliers of a pose that is published.", low=6, high=1000)


@dataclass(frozen=True)
class MapConfig:
    """The point map and the folder of saved maps."""

    voxel: float = setting(0.02, "Edge of the voxels of the point map; one point is kept in each.",
                           unit="m", low=0.001, high=10.0)
    max_points: int = setting(2_000_000, "Most points of the map; when there are more, the voxel edge is doubled.",
                              low=1000, high=100_000_000)
    min_confidence: float = setting(0.25, "Points of lower confidence rank are left out of the map.",
                                    unit="rank", low=0.0, high=1.0, live=True)
    max_depth: float = setting(8.0, "Points at a larger depth, in median depths of their keyframe, are left out.",
                               unit="median depths", low=1.0, high=1000.0, live=True)
    period: float = setting(2.0, "Shortest time between two messages of the whole map on `~/cloud_map`.",
                            unit="s", low=0.0, high=3600.0)
    max_keyframes: int = setting(2000, "Most keyframes in the map, about 0.3 MB each; when there are more, those with "
                                 "the fewest points of the map are removed.", low=100, high=1_000_000)
    adjust: bool = setting(True, "Adjust all keyframes and points at once (bundle adjustment), at the end of a replay "
                           "and before a map is saved, where the reconstructor gives tracks.")
    planar: bool = setting(False, "The robot drives on a plane: height, roll and pitch of its base are soft factors; "
                           "not for ramps below 3 planar_tilt, nor for what flies or is carried.")
    planar_tilt: float = setting(2.0, "Sigma of roll and pitch on the ground; steeper ramps are kept.",
                                 unit="degrees", low=0.1, high=30.0)
    planar_height: float = setting(0.1, "Sigma of the height over the ground.", unit="m", low=0.001, high=10.0)
    kept_width: int = setting(200, "Width of a keyframe's depth and color in the map; more if wider than 16:9.",
                              unit="px", low=40, high=1024)
    folder: str = setting("~/.ros/vggt_maps", "Folder of saved maps; services write nowhere else.")
    name: str = setting("map", "Name of the saved map inside the folder.", live=True)
    load: bool = setting(False, "Load the map `map.name` at the start; the mode localization always does.")
    autosave: bool = setting(False, "Save the map as `map.name` with `_autosave` before it is reset, at a jump of "
                             "time, and when the node is cleaned up or ends; not in the mode localization.")


@dataclass(frozen=True)
class GridConfig:
    """The occupancy grid."""

    resolution: float = setting(0.05, "Edge of a cell.", unit="m", low=0.005, high=10.0)
    min_height: float = setting(0.15, "Lowest z in `map` of an obstacle; anything lower is floor.",
                                unit="m", low=-100.0, high=100.0)
    max_height: float = setting(1.0, "Highest z in `map` of an obstacle: the robot passes under anything higher.",
                                unit="m", low=-100.0, high=100.0)
    max_range: float = setting(8.0, "Rays end at this range, and obstacles beyond it are ignored.",
                               unit="m", low=0.1, high=1000.0)
    min_confidence: float = setting(0.3, "Depth of lower confidence rank is ignored.",
                                    unit="rank", low=0.0, high=1.0)
    max_cells: int = setting(1500, "Most cells along a side; a larger map is cropped around its center.",
                             low=10, high=10000)


@dataclass(frozen=True)
class TfConfig:
    """Coordinate frames (REP-103 and REP-105)."""

    mode: str = setting("map_odom_base", "Which transforms are published.",
                        choices=("map_odom_base", "map_to_odom", "map_to_base", "none"))
    map_frame: str = setting("map", "Name of the map frame.")
    odom_frame: str = setting("odom", "Name of the odometry frame.")
    base_frame: str = setting("base_link", "Name of the robot's base frame.")
    base_timeout: float = setting(2.0, "How long to wait for base <- camera before poses are those of the camera "
                                  "itself, or `tf.assume_level` applies.", unit="s", low=0.0, high=60.0)
    assume_level: bool = setting(False, "Without base <- camera, take the camera as level with the base as its body "
                                 "frame, and publish that as a static transform.")
    transform_tolerance: float = setting(0.1, "How far ahead map -> odom is stamped.", unit="s", low=0.0, high=5.0,
                                         live=True)


@dataclass(frozen=True)
class Config:
    """All settings.

    Attributes:
        reconstructors: name of a reconstructor to its settings, which are the group of this name; see `of`.

    """

    reconstructor: str = setting("auto", "Reconstructor of the windows; `auto`: vggt with a GPU and weights on disk, "
                                 "else multiview.",
                                 choices=lambda: ("auto", *plugins.names()))
    refine: str = setting("auto", "Adjust each window to its images (bundle adjustment); `auto`: on for a network, off "
                          "for what does it itself, as multiview.", choices=("auto", "off", "on"))
    mode: str = setting("mapping", "`localization`: only locate the camera in a loaded map, which does not grow.",
                        choices=("mapping", "localization"), live=True)
    bond_heartbeat_period: float = setting(0.1, "Period of the heartbeats to Nav2's lifecycle manager; 0: no bond.",
                                           unit="s", low=0.0, high=10.0)
    seed: int = setting(0, "Seed of the random number generators.", low=0, high=2**31 - 1)
    camera: CameraConfig = field(default_factory=CameraConfig)
    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    reconstructors: Mapping[str, Any] = field(default_factory=plugins.default_settings)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    loops: LoopConfig = field(default_factory=LoopConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    map: MapConfig = field(default_factory=MapConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    tf: TfConfig = field(default_factory=TfConfig)

    def __post_init__(self) -> None:
        """Check every value, and combinations of values.

        Raises:
            ConfigError: a value is out of range, or does not fit to another one.

        """
        for one, value in self:
            one.check(value)
        if self.windows.overlap >= self.windows.size:
            raise ConfigError(f"windows.overlap: {self.windows.overlap} must be less than windows.size, "
                              f"{self.windows.size}")
        if self.grid.min_height >= self.grid.max_height:
            raise ConfigError(f"grid.min_height: {self.grid.min_height} must be less than grid.max_height, "
                              f"{self.grid.max_height}")
        frames = self.tf.map_frame, self.tf.odom_frame, self.tf.base_frame
        if len(set(frames)) < 3 or not all(frames) or any(frame.startswith("/") for frame in frames):
            raise ConfigError(f"tf.map_frame, tf.odom_frame, tf.base_frame: {', '.join(map(repr, frames))} must be "
                              "three names, none of which begins with /")
        if not is_map_name(self.map.name):
            raise ConfigError(f"map.name: {self.map.name!r} does not name a folder inside map.folder, "
                              f"{self.map.folder}; the path to it belongs into map.folder")
        if self.odometry_source == "tf" and self.tf.mode not in ("map_to_odom", "none"):
            raise ConfigError(f"scale.odometry: tf, but with tf.mode {self.tf.mode} the odometry in TF is our own; "
                              "set tf.mode to map_to_odom or none")

    @property
    def odometry_source(self) -> str:
        """Source of the metric odometry: none, topic or tf."""
        automatic = "tf" if self.tf.mode == "map_to_odom" else "none"
        return automatic if self.scale.odometry == "auto" else self.scale.odometry

    def of(self, kind: type[Settings]) -> Settings:
        """Return the settings of the reconstructor that has settings of this class; raises KeyError if none has."""
        for settings in self.reconstructors.values():
            if isinstance(settings, kind):
                return settings
        raise KeyError(f"no reconstructor has settings of the class {kind.__name__}")

    def __iter__(self) -> Iterator[tuple[Setting, Value]]:
        """Yield every setting with its value, in the order of definition."""
        yield from walk(self)

    def replace(self, changes: Mapping[str, Any]) -> Config:
        """Return a copy with the settings `changes` (dotted name to value).

        Raises:
            ConfigError: an unknown name or an invalid value.

        """
        known = {one.name: one for one, _ in self}
        groups: dict[str, dict[str, Any]] = {}
        top: dict[str, Any] = {}
        for name, value in changes.items():
            if name not in known:
                raise ConfigError(unknown_setting(name, known))
            group, _, key = name.rpartition(".")
            (groups.setdefault(group, {}) if group else top)[key] = known[name].check(value)
        reconstructors = dict(self.reconstructors)
        for group, values in groups.items():
            if group in reconstructors:
                reconstructors[group] = dataclasses.replace(reconstructors[group], **values)
            else:
                top[group] = dataclasses.replace(getattr(self, group), **values)
        if reconstructors != self.reconstructors:
            top["reconstructors"] = reconstructors
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
                raise ConfigError(unknown_setting(name, known))
            changes[name] = known[name].parse(value)
        return self.replace(changes)
