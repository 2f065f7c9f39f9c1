"""The demo: a rendered room, a rosbag2 or a sequence folder through the whole node over DDS, and the outcome."""

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
from vggt_ros.evaluation.pictures import draw_map, draw_trajectory
from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import Array
from vggt_ros.ros.bag_player import BagError
from vggt_ros.ros.recorder import Recording
from vggt_ros.ros.session import BagTopics, NodeError, bag_topics, record
from vggt_ros.sequences.bag import BagSequence
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import Truth
from vggt_ros.storage.files import FileError, write_ply, write_trajectory
from vggt_ros.synthetic import Scene, laps, pinhole, room

ROOT = Path(__file__).parents[1]
SIZE, FOV, IMAGES, HERTZ = (512, 384), 80.0, 400, 10.0
PLAY_SECONDS = 60.0
"""A bag is played so slowly that it takes this long at least: the CPU reconstructor needs a second or two a window."""


class RoomRenderer:
    """Renders encoded images of the room; one scene serves all processes that are forked from here."""

    def __init__(self, scene: Scene) -> None:
        """Take the scene."""
        self.scene, self.intrinsics = scene, pinhole(*SIZE, FOV)

    def __call__(self, world_camera: Array) -> bytes:
        """Return the view from a pose as JPEG."""
        image, _ = self.scene.render(world_camera, self.intrinsics, SIZE)
        return jpeg(image)


def render_room(path: Path, images: int, seed: int, rounds: float = 2.0) -> None:
    """Render two rounds in a textured room and write them as a rosbag2 with the exact poses."""
    cv2.setNumThreads(0)  # OpenCV's threads do not survive a fork
    stamps = 1_700_000_000_000_000_000 + np.arange(images, dtype=np.int64) * round(1e9 / HERTZ)
    poses, render = laps(images, rounds), RoomRenderer(room(seed=seed))
    with multiprocessing.get_context("fork").Pool(initializer=_share, initargs=(render,)) as pool:
        encoded = tqdm(pool.imap(_render, poses, chunksize=4), total=images, unit="image", disable=None)
        write_bag(path, zip(stamps.tolist(), encoded), Camera(*SIZE, render.intrinsics), (stamps, poses))


_render_here: RoomRenderer
"""What the forked processes render with."""


def _share(render: RoomRenderer) -> None:
    global _render_here
    _render_here = render


def _render(world_camera: Array) -> bytes:
    return _render_here(world_camera)


def find_bag(source: Path, scratch: Path) -> BagSequence:
    """Return the rosbag2 at `source`, or one made in `scratch` from the images there.

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
    """Return what the node counted."""
    status = recording.status

    def number(key: str) -> int:
        return int(float(status.get(key, 0)))

    received = number("images received")
    return {"images": topics.images, "received": received, "lost_on_the_way": topics.images - received,
            **{key: number(key) for key in ("frames", "tracked", "lost", "keyframes", "thinned", "unplaced", "windows",
                                            "refused", "retried", "submaps")},
            "keyframes_in_path": len(recording.stamps), "odometry_messages": len(recording.odometry),
            "seconds_a_window": round(median(recording.window_seconds.values()), 2) if recording.window_seconds
            else None, "most_windows_waiting": recording.most_waiting,
            "seconds_after_the_bag": round(recording.seconds_after, 1),
            "points": 0 if recording.cloud is None else len(recording.cloud),
            **{key.replace(" ", "_"): float(value) for key, value in status.items() if key.startswith("latency ")},
            "scale_state": status.get("scale"), "reconstructor": status.get("reconstructor")}


def write_results(out: Path, recording: Recording, truth: Truth | None, report: dict[str, Any]) -> None:
    """Write trajectories, map, pictures and the report into `out`; what the truth tells is added to `report`."""
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
        draw_map(out / "map.png", recording.cloud, poses)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")


def summary(report: dict[str, Any], out: Path) -> str:
    """Return what a newcomer wants to know."""
    pieces = "one piece" if report["submaps"] == 1 else f"{report['submaps']} pieces, it is broken"
    lines = [f"{report['received']} of {report['images']} images arrived; {report['keyframes']} were chosen as "
             f"keyframes, {report['thinned']} of them were thinned out because the reconstructor was busy.",
             f"{report['windows']} windows of keyframes were reconstructed in {report['seconds_a_window']} s each; the "
             f"map has {report['points']:,} points in {pieces}."]
    if "ate_rmse_m" in report:
        lines.append(f"The path is off by {100 * report['ate_rmse_m']:.1f} cm (RMS) or "
                     f"{report['ate_percent_of_path']:.2f} % of the {report['path_length_m']:.1f} m, of which "
                     f"{100 * report['coverage']:.0f} % are covered. One camera cannot know the scale: it was fitted.")
    else:
        lines.append(report.get("not_evaluated", "There is no ground truth to compare with."))
    lines += ["", f"In {out}:", "  trajectory.png   the path from above, with the truth where it is known",
              "  map.png          the colored map, and map.ply for MeshLab or CloudCompare",
              "  trajectory.txt   poses of the keyframes (TUM format)",
              "  report.json      all the numbers; node.log has what the node said"]
    return "\n".join(lines)


def main() -> int:
    """Make the bag, run the node on it, write out/demo/ and say how it went."""
    parser = argparse.ArgumentParser(prog="dev/demo", description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, help="a rosbag2 or a folder with rgb.txt; none: a rendered room")
    parser.add_argument("--rate", type=float, help=f"times as fast as recorded (default: to take {PLAY_SECONDS:g} s)")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"images of the room (default {IMAGES})")
    parser.add_argument("--seed", type=int, default=0, help="seed of the room and of the node")
    parser.add_argument("--output", type=Path, default=ROOT / "out" / "demo", help="folder of the results")
    options = parser.parse_args()
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:3.0f} s] {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="vggt_ros_demo_") as scratch:
        # Nobody else's nodes, and nobody else disturbed.
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
            say(f"{topics.images} images over {topics.duration:.0f} s, played at {rate:.2f} of their rate")
            recording = record(sequence.path, topics, ROOT / "config" / "slam.yaml", options.output / "node.log",
                               rate=rate, settings={"seed": options.seed}, say=say)
        except (BagError, FileError, NodeError) as error:
            print(f"dev/demo: {error}", file=sys.stderr)
            return 1
    report = {"source": str(options.path or "rendered room"), "rate": rate, **counts(recording, topics)}
    if len(recording.stamps) < 3:
        print(f"dev/demo: the node placed {len(recording.stamps)} keyframes, too few to show; see "
              f"{options.output / 'node.log'}", file=sys.stderr)
        return 1
    write_results(options.output, recording, sequence.truth, report)
    say("done\n")
    print(summary(report, options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
