"""replay: a recorded sequence through the node's own pipeline, without ROS, as fast as it goes and never dropping."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vggt_ros.camera import Rectifier
from vggt_ros.cli.metric_sources import MetricSources
from vggt_ros.config import Config
from vggt_ros.evaluation import Accuracy, EvaluationError, accuracy
from vggt_ros.files import FileError, format_stamp, read_trajectory, write_ply, write_trajectory
from vggt_ros.frame_path import frame_path
from vggt_ros.geometry import BODY_OPTICAL, Array
from vggt_ros.map_record import MapRecord
from vggt_ros.pictures import draw_map, draw_trajectory
from vggt_ros.pipeline import Slam
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.sequences import Sequence, Truth, open_sequence
from vggt_ros.settings import ConfigError
from vggt_ros.solution import UNKNOWN, Frame, TrackedFrame, Update
from vggt_ros.storage import StorageError, load_map, save_map


@dataclass(frozen=True, eq=False)
class Run:
    """What came of a sequence.

    Attributes:
        sequence: what was run.
        config: the settings.
        reconstructor: who reconstructed, and why.
        slam: with the map.
        frames: every image's pose as it was tracked.
        updates: what each window did.
        late: images left out because they are no newer than the one before; the node leaves them out too.
        seconds: wall time.
        loaded: the saved map that it went on in, None if it began an empty one.

    """

    sequence: Sequence
    config: Config
    reconstructor: str
    slam: Slam
    frames: list[TrackedFrame]
    updates: list[Update]
    late: int
    seconds: float
    loaded: MapRecord | None = None

    @property
    def first_keyframe(self) -> int:
        """The least id of a keyframe of this run; those before came with the map."""
        return 0 if self.loaded is None else self.loaded.next_keyframe

    def trajectory(self, submap: int) -> Truth:
        """Return stamps (n,) and `map_camera` (n, 4, 4) of this run's keyframes in a submap, as the graph holds them.

        In mode localization, which adds no keyframes, every image that was found.
        """
        if self.config.mode == "localization":
            return self.frame_trajectory(submap)
        stamps, poses = self.slam.trajectory(submap)
        solution = self.slam.solution
        own = solution.ids[solution.submaps == submap] >= self.first_keyframe
        return stamps[own], poses[own]

    def accuracy(self, with_scale: bool = True) -> Accuracy | None:
        """Return how near `trajectory` is to the truth in the largest submap; None if that cannot be said.

        Aligned by a similarity, or not `with_scale`: by a rigid motion, so that an error of scale counts.
        """
        return self._against_truth(*self.trajectory(self.slam.solution.largest_submap), with_scale=with_scale)

    def frame_trajectory(self, submap: int) -> tuple[NDArray[np.int64], Array]:
        """Return stamps (n,) and poses (n, 4, 4) of the images located in a submap; see `frame_path`."""
        return frame_path(self.frames, self.slam.solution, submap, self.slam.frame_pose)

    def frame_figures(self) -> dict[str, float | None]:
        """Return what share of the images since the first pose is located in the largest submap, and how well."""
        stamps, poses = self.frame_trajectory(self.slam.solution.largest_submap)
        begin = next((tracked.stamp for tracked in self.frames if tracked.map_camera is not None), None)
        offered = sum(begin is not None and tracked.stamp >= begin for tracked in self.frames)
        frames, keyframes = self._against_truth(stamps, poses), self.accuracy()
        live = [(tracked.stamp, tracked.odom_camera) for tracked in self.frames if tracked.odom_camera is not None]
        odometry = self._against_truth(np.array([stamp for stamp, _ in live], np.int64),
                                       np.array([matrix for _, matrix in live]).reshape(-1, 4, 4))
        return {
            "frames_located": int((stamps >= begin).sum()) / offered if begin is not None else None,
            "frames_ate_rmse_m": frames.ate_rmse if frames else None,
            "frames_ate_to_keyframes": frames.ate_rmse / keyframes.ate_rmse if frames and keyframes else None,
            "frames_rpe_1s_m": frames.rpe_second_translation if frames else None,
            "frames_rpe_1s_deg": frames.rpe_second_rotation if frames else None,
            "odometry_rpe_1s_m": odometry.rpe_second_translation if odometry else None,
            "odometry_rpe_1s_deg": odometry.rpe_second_rotation if odometry else None,
        }

    def _against_truth(self, stamps: NDArray[np.int64], poses: Array, with_scale: bool = True) -> Accuracy | None:
        if self.sequence.truth is None:
            return None
        try:
            return accuracy(stamps, poses, *self.sequence.truth, with_scale=with_scale)
        except EvaluationError:
            return None


def run(sequence: Sequence, config: Config, reconstructor: Reconstructor | None = None, progress: bool = False, *,
        odometry: Truth | None = None, sensor_depth: bool = False,
        imu: tuple[NDArray[np.int64], Array] | None = None, loaded: MapRecord | None = None,
        watch: Callable[[Slam, Update], None] = lambda slam, update: None) -> Run:
    """Run a sequence through the pipeline.

    Args:
        sequence: images and their camera.
        config: all settings.
        reconstructor: instead of the one that the settings name.
        progress: show a bar.
        odometry: stamps (n,) and camera poses (n, 4, 4) of another odometry, for metric scale.
        sensor_depth: take metric scale from the sequence's depth images.
        imu: stamps (n,) and samples (n, 6), rad/s and m/s^2, of an IMU in the camera's place and axes.
        loaded: a saved map to go on in.
        watch: told of each window that was solved.

    Raises:
        SequenceError: an image is broken.

    """
    cv2.setRNGSeed(config.seed)  # RANSAC
    why = "as given"
    if reconstructor is None:
        reconstructor, why = create_reconstructor(config)
    slam = Slam(config, reconstructor)
    if loaded is not None:
        slam.reset_tracking(loaded)
        slam.restore_map(loaded)
    rectified = config.camera.rectified == "true" or (config.camera.rectified == "auto" and sequence.rectified)
    rectify = Rectifier(sequence.camera, reconstructor.image_size(sequence.camera), rectified)
    frames: list[TrackedFrame] = []
    updates: list[Update] = []
    late = 0
    sources = MetricSources(slam, sequence, rectify, odometry, sensor_depth, imu)
    began = time.perf_counter()
    with tqdm(total=len(sequence), unit="image", disable=not progress, dynamic_ncols=True) as bar:
        for stamp, image in sequence:
            bar.update()
            if frames and stamp <= frames[-1].stamp:
                late += 1
                continue
            sources.feed(stamp)
            tracked = slam.track(Frame(stamp, rectify(image), rectify.intrinsics, sequence.camera.calibrated))
            if tracked.window is not None:
                updates.append(slam.step(tracked.window))
                watch(slam, updates[-1])
                bar.set_postfix(keyframes=slam.counts.keyframes, windows=slam.counts.windows,
                                submaps=slam.counts.submaps)
                tracked = dataclasses.replace(tracked, window=None)  # its images are not needed any more
            frames.append(tracked)
        last = slam.flush()
        if last is not None:
            updates.append(slam.step(last))
            watch(slam, updates[-1])
    return Run(sequence, config, why, slam, frames, updates, late, time.perf_counter() - began, loaded)


def report(result: Run) -> dict[str, Any]:
    """Return the figures of a run for report.json; lengths are in meters where the name says so."""
    slam, solution, figures = result.slam, result.slam.solution, result.accuracy()
    unscaled = result.accuracy(with_scale=False) if solution.metric.state != UNKNOWN else None
    steps = [update.seconds for update in result.updates]
    own = int((solution.ids >= result.first_keyframe).sum())
    return {
        "sequence": result.sequence.name,
        "images": len(result.frames),
        "ate_rmse_m": figures and figures.ate_rmse,
        "ate_rmse_unscaled_m": unscaled and unscaled.ate_rmse,
        "ate_percent_of_path": figures and 100 * figures.ate_rmse / figures.path if figures and figures.path else None,
        "path_m": figures and figures.path,
        "coverage": figures and figures.coverage,
        **result.frame_figures(),
        "images_located": sum(tracked.map_camera is not None for tracked in result.frames),
        "images_per_keyframe": len(result.frames) / max(own, 1),
        "keyframes": own,
        "keyframes_loaded": 0 if result.loaded is None else len(result.loaded),
        "largest_submap_keyframes": int((solution.submaps == solution.largest_submap).sum()),
        "windows": slam.counts.windows,
        "submaps": len(np.unique(solution.submaps)),
        "seconds_a_window_median": float(np.median(steps)) if steps else None,
        "wall_seconds": result.seconds,
        "counts": dataclasses.asdict(slam.counts),
        "dropped_images": result.late,
        "refusals": [update.refused for update in result.updates if update.refused],
        "loops": [update.loop for update in result.updates if update.loop],
        "scale": solution.metric.state,
        "scale_sigma": solution.metric.sigma,
        "scale_by": solution.metric.source,
        "scale_sources": result.slam.scale.report,
        "reconstructor": result.reconstructor,
        "assumptions": list(result.sequence.assumptions),
        "settings": {setting.name: value for setting, value in result.config},
    }


def write(result: Run, folder: Path, depth: bool = False) -> dict[str, Any]:
    """Write trajectories, map, pictures and report into `folder`, with `depth` the depth maps too; return the report.

    `trajectory.txt` and `frames.txt` are of the largest submap, those with a number are of the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slam, solution = result.slam, result.slam.solution
    for pattern in ("trajectory_*.txt", "frames_*.txt", "depth/*.npz"):  # an older run may have had more
        for old in folder.glob(pattern):
            old.unlink()
    largest = solution.largest_submap
    for submap in sorted({largest, *np.unique(solution.submaps).tolist()}):
        suffix = "" if submap == largest else f"_{submap}"
        write_trajectory(folder / f"trajectory{suffix}.txt", *result.trajectory(submap))
        write_trajectory(folder / f"frames{suffix}.txt", *result.frame_trajectory(submap))
    cloud = slam.map_cloud()
    write_ply(folder / "map.ply", cloud)
    figures = report(result)
    stamps, poses = result.trajectory(largest)
    if len(stamps):
        measured = result.accuracy()
        draw_trajectory(folder / "trajectory.png", stamps, poses, result.sequence.truth if measured else None,
                        measured, result.sequence.name)
        draw_map(folder / "map.png", cloud, poses, result.config.map.voxel)
    if depth:
        write_depth(result, folder / "depth")
    (folder / "report.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def write_depth(result: Run, folder: Path) -> None:
    """Write `<stamp>.npz` for every keyframe: depth in map units and confidence (h, w), and K for that size."""
    folder.mkdir(parents=True, exist_ok=True)
    solution = result.slam.solution
    for row, keyframe in enumerate(solution.ids.tolist()):
        kept = solution.kept[keyframe]
        np.savez_compressed(folder / f"{format_stamp(kept.stamp)}.npz",
                            depth=kept.depth.astype(np.float32) * np.float32(solution.scale[row]),
                            confidence=kept.confidence.astype(np.float32) / 255, K=kept.intrinsics)


def save(result: Run, folder: Path) -> None:
    """Save the map, for `--load`, the node's `~/load_map` and `export`.

    A map that began here is turned as if the first camera had been level on a robot.

    Raises:
        StorageError: there is nothing to save, or the folder holds something else than a map.
        OSError: the folder cannot be written.

    """
    slam, turn = result.slam, BODY_OPTICAL if result.loaded is None else result.loaded.map_world
    if not len(slam.solution):
        raise StorageError("nothing is mapped, so there is nothing to save")
    save_map(folder, slam.record(turn), slam.map_cloud().moved(turn), turn @ slam.solution.map_camera, result.config)


def add_sequence_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how a sequence is read and with which settings."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    for kind, what in (("image", "images"), ("info", "calibration"), ("truth", "ground truth")):
        parser.add_argument(f"--{kind}-topic", default="", metavar="TOPIC", help=f"topic of a bag's {what}")
    parser.add_argument("--rate", type=float, default=10.0, help="images a second of a folder without times")


def summary(figures: dict[str, Any]) -> str:
    """Return the report in a few lines."""
    lines = [f"{figures['images']} images, {figures['keyframes']} keyframes, {figures['windows']} windows, "
             f"{figures['submaps']} submap{'s' if figures['submaps'] != 1 else ''}, {figures['wall_seconds']:.0f} s"]
    if figures["keyframes_loaded"]:
        lines.append(f"{figures['images_located']} images were located; the loaded map had "
                     f"{figures['keyframes_loaded']} keyframes")
    if figures["ate_rmse_m"] is not None:
        lines.append(f"ATE RMSE {figures['ate_rmse_m']:.4f} m after Sim(3) = {figures['ate_percent_of_path']:.2f} % of "
                     f"{figures['path_m']:.1f} m; coverage {100 * figures['coverage']:.0f} %")
    if figures["frames_rpe_1s_m"] is not None:
        lines.append(f"images {100 * figures['frames_located']:.1f} % located from the first pose on, ATE RMSE "
                     f"{figures['frames_ate_rmse_m']:.4f} m, RPE over 1 s {figures['frames_rpe_1s_m']:.4f} m, "
                     f"{figures['frames_rpe_1s_deg']:.2f} deg")
    if figures["ate_rmse_unscaled_m"] is not None:
        lines.append(f"ATE RMSE {figures['ate_rmse_unscaled_m']:.4f} m after SE(3), scale {figures['scale']} by "
                     f"{figures['scale_by']}, sigma {100 * figures['scale_sigma']:.2g} %")
    return "\n".join(lines)


def main(args: list[str] | None = None) -> int:
    """Replay the sequence named on the command line."""
    parser = argparse.ArgumentParser(prog="replay", description="Runs a sequence through the pipeline, without ROS.")
    parser.add_argument("sequence", type=Path, help="folder with rgb.txt, rosbag2, video or folder of images")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the results go")
    parser.add_argument("--seed", type=int, help="seed of everything random; the same as --set seed=N")
    parser.add_argument("--odometry", type=Path, metavar="FILE",
                        help="another odometry for metric scale: the camera's poses in meters, in TUM's format")
    parser.add_argument("--depth-source", action="store_true",
                        help="take metric scale from the sequence's depth images")
    parser.add_argument("--depth", action="store_true", help="write the keyframes' depth maps too")
    parser.add_argument("--save", type=Path, metavar="MAP", help="save the map as this folder")
    parser.add_argument("--load", type=Path, metavar="MAP",
                        help="go on in a saved map; with --set mode=localization only locate the images in it")
    add_sequence_arguments(parser)
    options = parser.parse_args(args)
    try:
        config = Config().parse(options.set + ([] if options.seed is None else [f"seed={options.seed}"]))
        if config.mode == "localization" and options.load is None:
            raise ConfigError("mode localization needs a saved map: --load MAP")
        loaded = None if options.load is None else load_map(options.load.expanduser())
        sequence = open_sequence(options.sequence, image_topic=options.image_topic, info_topic=options.info_topic,
                                 truth_topic=options.truth_topic, fov=config.camera.fov, rate=options.rate)
        for line in sequence.assumptions:
            print(f"assumed: {line}", file=sys.stderr)
        result = run(sequence, config, progress=True, sensor_depth=options.depth_source, loaded=loaded,
                     odometry=read_trajectory(options.odometry.expanduser()) if options.odometry else None)
        figures = write(result, options.output.expanduser(), options.depth)
        if options.save is not None:
            save(result, options.save.expanduser())
    except (ConfigError, FileError, StorageError, OSError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 1
    if result.late:
        print(f"left out: {result.late} images that are no newer than the one before", file=sys.stderr)
    for reason in figures["refusals"]:
        print(f"refused: {reason}", file=sys.stderr)
    print(f"{summary(figures)}\nwritten to {options.output}")
    return 0 if figures["images_located"] or figures["keyframes"] else 2


if __name__ == "__main__":
    sys.exit(main())
