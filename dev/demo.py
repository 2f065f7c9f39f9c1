"""The demo: run the node over DDS on a rendered room, a rosbag2 or a sequence folder, and write the results."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from bags import jpeg, write_bag
from tqdm import tqdm

from vggt_ros.evaluation.errors import Accuracy, EvaluationError, accuracy
from vggt_ros.evaluation.map_pictures import draw_map, draw_map_from_above, without_single_points
from vggt_ros.evaluation.pictures import draw_trajectory
from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import Array
from vggt_ros.ros.tools.bag_player import BagError
from vggt_ros.ros.tools.node_process import NodeError
from vggt_ros.ros.tools.recorder import Recording
from vggt_ros.ros.tools.session import BagTopics, bag_topics, record_node
from vggt_ros.sequences.bag import BagSequence
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import Truth
from vggt_ros.storage.files import FileError, write_ply, write_trajectory
from vggt_ros.synthetic import Scene, laps, pinhole, room

ROOT = Path(__file__).parents[1]
SIZE, FOV, IMAGES, HERTZ = (512, 384), 80.0, 400, 10.0
PLAY_SECONDS = 60.0
"""Shortest playing time of a bag, seconds: the CPU reconstructor needs one or two seconds per window."""


class RoomRenderer:
    """Renders JPEG images of the room; the forked processes share one scene."""

    def __init__(self, scene: Scene) -> None:
        """Store the scene."""
        self.scene, self.intrinsics = scene, pinhole(*SIZE, FOV)

    def __call__(self, world_camera: Array) -> bytes:
        """Return the image from a camera pose as JPEG."""
        image, _ = self.scene.render(world_camera, self.intrinsics, SIZE)
        return jpeg(image)


def render_room(path: Path, images: int, seed: int, rounds: float = 2.0) -> None:
    """Render laps in a textured room, and write them as a rosbag2 with the exact poses."""
    cv2.setNumThreads(0)  # the threads of OpenCV do not work after a fork
    stamps = 1_700_000_000_000_000_000 + np.arange(images, dtype=np.int64) * round(1e9 / HERTZ)
    poses, render = laps(images, rounds), RoomRenderer(room(seed=seed))
    with multiprocessing.get_context("fork").Pool(initializer=_share, initargs=(render,)) as pool:
        encoded = tqdm(pool.imap(_render, poses, chunksize=4), total=images, unit="image", disable=None)
        write_bag(path, zip(stamps.tolist(), encoded), Camera(*SIZE, render.intrinsics), (stamps, poses))


_render_here: RoomRenderer
"""The renderer in the forked processes."""


def _share(render: RoomRenderer) -> None:
    global _render_here
    _render_here = render


def _render(world_camera: Array) -> bytes:
    return _render_here(world_camera)


def find_bag(source: Path, scratch: Path) -> BagSequence:
    """Return the rosbag2 at `source`, or one written to `scratch` from the images at `source`.

    Raises:
        vggt_ros.sequences.SequenceError: there are no images, or they cannot be read.

    """
    sequence = open_sequence(source)
    for line in sequence.assumptions:
        print(f"assumed: {line}", file=sys.stderr)
    if isinstance(sequence, BagSequence):
        return sequence
    encoded = ((stamp, jpeg(image)) for stamp, image in tqdm(sequence, unit="image", disable=None))
    write_bag(scratch, encoded, sequence.camera, sequence.truth)
    return BagSequence(scratch)


def counts(recording: Recording, topics: BagTopics) -> dict[str, Any]:
    """Return counts and durations from the status of the node."""
    status = recording.status

    def number(key: str) -> int:
        return int(float(status.get(key, 0)))

    received = number("images received")
    return {"images": topics.images, "received": received, "lost_on_the_way": topics.images - received,
            **{key: number(key) for key in ("frames", "tracked", "lost", "keyframes", "thinned", "unplaced", "windows",
                                            "refused", "retried", "submaps")},
            "keyframes_in_path": len(recording.stamps), "odometry_messages": len(recording.odometry),
            "seconds_a_window": round(median(recording.window_seconds.values()), 2) if recording.window_seconds
            else None, "most_windows_waiting": recording.max_waiting,
            "seconds_after_the_bag": round(recording.delay_after_bag, 1),
            "points": 0 if recording.cloud is None else len(recording.cloud),
            **{key.replace(" ", "_"): float(value) for key, value in status.items() if key.startswith("latency ")},
            "scale_state": status.get("scale"), "reconstructor": status.get("reconstructor")}


def write_results(out: Path, recording: Recording, truth: Truth | None, report: dict[str, Any]) -> None:
    """Write trajectories, map, pictures and the report into `out`; accuracy by ground truth is added to `report`."""
    stamps, poses = recording.stamps, recording.map_camera
    write_trajectory(out / "trajectory.txt", stamps, poses)
    fit: Accuracy | None = None
    if truth is not None:
        write_trajectory(out / "groundtruth.txt", *truth)
        try:
            fit = accuracy(stamps, poses, *truth)
            report |= {"ate_rmse_m": fit.ate_rmse, "ate_percent_of_path": 100 * fit.ate_rmse / fit.path,
                       "path_length_m": fit.path, "coverage": fit.coverage, "meters_a_map_unit": fit.scale}
        except EvaluationError as error:
            report["not_evaluated"] = str(error)
    draw_trajectory(out / "trajectory.png", stamps, poses, truth if fit else None, fit, report["source"])
    if recording.cloud is not None:
        write_ply(out / "map.ply", recording.cloud)
        cloud = without_single_points(recording.cloud)
        draw_map(out / "map.png", cloud, poses)
        draw_map_from_above(out / "map_above.png", cloud, poses, unit="map unit")
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")


def summary(report: dict[str, Any], out: Path) -> str:
    """Return a summary of the results for the terminal."""
    pieces = "one submap" if report["submaps"] == 1 else f"{report['submaps']} submaps, which are not connected"
    lines = [f"{report['received']} of {report['images']} images arrived; {report['keyframes']} were chosen as "
             f"keyframes, {report['thinned']} of them were dropped because the reconstructor was busy.",
             f"{report['windows']} windows of keyframes were reconstructed in {report['seconds_a_window']} s each; the "
             f"map has {report['points']:,} points in {pieces}."]
    if "ate_rmse_m" in report:
        lines.append(f"The trajectory error (ATE RMSE) is {100 * report['ate_rmse_m']:.1f} cm, or "
                     f"{report['ate_percent_of_path']:.2f} % of the path of {report['path_length_m']:.1f} m, of which "
                     f"{100 * report['coverage']:.0f} % are covered; with one camera, scale was fitted.")
    else:
        lines.append(report.get("not_evaluated", "There is no ground truth."))
    lines += ["", f"In {out}:", "  trajectory.png   the trajectory from above, with ground truth if available",
              "  map.png          the colored map as the camera saw it; map_above.png from above; map.ply for MeshLab",
              "  trajectory.txt   poses of the keyframes (TUM format)",
              "  report.json      all statistics; node.log is the log of the node"]
    return "\n".join(lines)


def main() -> int:
    """Write the bag if necessary, run the node on it, write the results and print a summary."""
    parser = argparse.ArgumentParser(prog="dev/demo", description=__doc__)
    parser.add_argument("path", nargs="?", type=Path,
                        help="a rosbag2 or a folder with rgb.txt; default: a rendered room")
    parser.add_argument("--rate", type=float,
                        help=f"playback speed (default: 1, or slower to take at least {PLAY_SECONDS:g} s)")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"number of images of the room (default {IMAGES})")
    parser.add_argument("--seed", type=int, default=0, help="seed of the room and of the node")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "demo", help="output folder")
    options = parser.parse_args()
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - start:3.0f} s] {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="vggt_ros_demo_") as scratch:
        # Isolate the demo from other ROS nodes on the machine and in the network.
        os.environ |= {"ROS_DOMAIN_ID": str(random.SystemRandom().randint(1, 100)), "ROS_LOG_DIR": f"{scratch}/log",
                       "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        try:
            if options.path is None:
                say(f"rendering {options.images} images of a room")
                render_room(Path(scratch, "bag"), options.images, options.seed)
                sequence = BagSequence(Path(scratch, "bag"))
            else:
                sequence = find_bag(options.path, Path(scratch, "bag"))
            topics = bag_topics(sequence.path, sequence.image_topic)
            shutil.rmtree(options.output, ignore_errors=True)
            options.output.mkdir(parents=True)
            rate = options.rate or min(1.0, topics.duration / PLAY_SECONDS)
            say(f"{topics.images} images over {topics.duration:.0f} s, played at {rate:.2f} times the recorded rate")
            recording = record_node(sequence.path, topics, ROOT / "config" / "slam.yaml", options.output / "node.log",
                                    rate=rate, settings={"seed": options.seed}, report_progress=say)
        except (BagError, FileError, NodeError) as error:
            print(f"dev/demo: {error}", file=sys.stderr)
            return 1
    report = {"source": str(options.path or "rendered room"), "rate": rate, **counts(recording, topics)}
    if len(recording.stamps) < 3:
        print(f"dev/demo: the map has {len(recording.stamps)} keyframes, too few for results; see "
              f"{options.output / 'node.log'}", file=sys.stderr)
        return 1
    write_results(options.output, recording, sequence.truth, report)
    say("done\n")
    print(summary(report, options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
