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
from bags import (
    BagTopics,
    Truth,
    bag_truth,
    describe_bag,
    read_truth,
    sequence_camera,
    sequence_images,
    write_bag,
)
from tqdm import tqdm

from vggt_ros.camera import Camera
from vggt_ros.geometry import Array, Sim3, umeyama
from vggt_ros.ros.bag_player import BagError
from vggt_ros.ros.recorder import Recording
from vggt_ros.ros.session import NodeError, record
from vggt_ros.synthetic import Scene, laps, pinhole, room

ROOT = Path(__file__).parents[1]
SIZE, FOV, IMAGES, HERTZ = (640, 480), 80.0, 450, 10.0
PLAY_SECONDS = 75.0
"""A bag is played so slowly that it takes this long at least: the CPU reconstructor needs a second or two a window."""
FARTHEST = 0.1
"""Seconds between a keyframe and the nearest known true pose, beyond which they are not compared."""


class RoomRenderer:
    """Renders encoded images of the room; one scene serves all processes that are forked from here."""

    def __init__(self, scene: Scene) -> None:
        """Take the scene."""
        self.scene, self.intrinsics = scene, pinhole(*SIZE, FOV)

    def __call__(self, world_camera: Array) -> bytes:
        """Return the view from a pose as JPEG."""
        image, _ = self.scene.render(world_camera, self.intrinsics, SIZE)
        return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def render_room(path: Path, images: int, seed: int) -> None:
    """Render two laps in a textured room and write them as a rosbag2 with the exact poses."""
    cv2.setNumThreads(0)  # OpenCV's threads do not survive a fork
    stamps = 1_700_000_000_000_000_000 + np.arange(images, dtype=np.int64) * round(1e9 / HERTZ)
    poses, render = laps(images), RoomRenderer(room(seed=seed))
    with multiprocessing.get_context("fork").Pool(initializer=_share, initargs=(render,)) as pool:
        encoded = tqdm(pool.imap(_render, poses, chunksize=4), total=images, unit="image", disable=None)
        write_bag(path, zip(stamps.tolist(), encoded), Camera(*SIZE, render.intrinsics), Truth(stamps, poses))


def _share(render: RoomRenderer) -> None:
    global _render_here
    _render_here = render


def _render(world_camera: Array) -> bytes:
    return _render_here(world_camera)


def find_bag(source: Path, scratch: Path) -> Path:
    """Return the rosbag2 at `source`, made from its images if it is a sequence folder.

    Raises:
        BagError: it is neither.

    """
    for bag in (source, source / "bag"):
        if bag.is_file() or (bag / "metadata.yaml").exists():
            return bag
    if (source / "rgb.txt").exists() and (source / "calibration.txt").exists():
        truth = source / "groundtruth.txt"
        write_bag(scratch, sequence_images(source), sequence_camera(source),
                  read_truth(truth) if truth.exists() else None)
        return scratch
    raise BagError(f"{source}: " + ("neither a rosbag2 (metadata.yaml) nor a sequence (rgb.txt and calibration.txt)"
                                    if source.exists() else "no such file or folder"))


def compare(truth: Truth, recording: Recording) -> tuple[Sim3, dict[str, float]]:
    """Return the similarity that moves our path onto the true one, and how well it fits.

    ATE RMSE as in Sturm et al., A Benchmark for the Evaluation of RGB-D SLAM Systems, IROS 2012. Coverage is the part
    of the true way between the first and the last keyframe.
    """
    after = np.clip(np.searchsorted(truth.stamps, recording.stamps), 1, len(truth.stamps) - 1)
    nearest = after - (recording.stamps - truth.stamps[after - 1] < truth.stamps[after] - recording.stamps)
    close = np.abs(truth.stamps[nearest] - recording.stamps) < FARTHEST * 1e9
    ours, true = recording.map_camera[close, :3, 3], truth.world_camera[nearest[close], :3, 3]
    truth_map = umeyama(ours, true)
    steps = np.linalg.norm(np.diff(truth.world_camera[:, :3, 3], axis=0), axis=1)
    errors = np.linalg.norm(truth_map.apply(ours) - true, axis=1)
    length = float(steps.sum())
    rmse = float(np.sqrt((errors**2).mean()))
    return truth_map, {"ate_rmse_m": rmse, "ate_percent_of_path": 100 * rmse / length, "path_length_m": length,
                       "coverage": float(steps[nearest[close][0]:nearest[close][-1]].sum() / length),
                       "scale": truth_map.scale}


def counts(recording: Recording, topics: BagTopics) -> dict[str, Any]:
    """Return what the node counted."""
    status = recording.status

    def number(key: str) -> int:
        return int(float(status.get(key, 0)))

    received = number("images received")
    return {"images": topics.messages, "received": received, "lost_on_the_way": topics.messages - received,
            **{key: number(key) for key in ("frames", "tracked", "lost", "keyframes", "thinned", "unplaced", "windows",
                                            "refused", "retried", "submaps")},
            "keyframes_in_path": len(recording.stamps), "odometry_messages": len(recording.odometry),
            "seconds_a_window": round(median(recording.window_seconds.values()), 2) if recording.window_seconds
            else None, "points": 0 if recording.cloud is None else len(recording.cloud),
            "scale_state": status.get("scale"), "reconstructor": status.get("reconstructor")}


def write_results(out: Path, recording: Recording, truth: Truth | None, report: dict[str, Any]) -> None:
    """Write trajectories, map, pictures and the report into `out`."""
    from vggt_ros.cli.pictures import draw_map, draw_trajectory
    from vggt_ros.files import write_ply, write_trajectory

    out.mkdir(parents=True, exist_ok=True)
    write_trajectory(out / "trajectory.txt", recording.stamps, recording.map_camera)
    truth_map = None
    if truth is not None:
        write_trajectory(out / "groundtruth.txt", truth.stamps, truth.world_camera)
        truth_map, fit = compare(truth, recording)
        report |= fit
    draw_trajectory(out / "trajectory.png", recording.map_camera, truth.world_camera if truth else None, truth_map)
    if recording.cloud is not None:
        write_ply(out / "map.ply", recording.cloud)
        draw_map(out / "map.png", recording.cloud, recording.map_camera)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")


def summary(report: dict[str, Any], out: Path) -> str:
    """Return what a newcomer wants to know."""
    lines = [f"{report['received']} of {report['images']} images arrived, {report['tracked']} of them were given a "
             f"pose; {report['keyframes']} became keyframes ({report['thinned']} more were thinned out).",
             f"{report['windows']} windows of keyframes were reconstructed, {report['seconds_a_window']} s each; the "
             f"map has {report['points']:,} points in {report['submaps']} "
             f"{'piece' if report['submaps'] == 1 else 'pieces, the map is broken'}."]
    if "ate_rmse_m" in report:
        lines.append(f"The path is off by {100 * report['ate_rmse_m']:.1f} cm RMS, {report['ate_percent_of_path']:.2f} "
                     f"% of {report['path_length_m']:.1f} m, after alignment (one camera alone cannot know the scale).")
    else:
        lines.append("There is no ground truth to compare with (a bag has it in /ground_truth/pose).")
    return "\n".join([*lines, "", f"In {out}:", "  trajectory.png   our path" + (" and the true one, from above" if
                                                                                  "ate_rmse_m" in report else ""),
                      "  map.png          the colored map", "  map.ply          the same for MeshLab or CloudCompare",
                      "  trajectory.txt   poses of the keyframes (TUM format)", "  report.json      all the numbers"])


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
                render_room(bag := Path(scratch, "bag"), options.images, options.seed)
            else:
                bag = find_bag(options.path, Path(scratch, "bag"))
            topics, truth = describe_bag(bag), bag_truth(bag)
            shutil.rmtree(options.output, ignore_errors=True)
            options.output.mkdir(parents=True)
            rate = options.rate or min(1.0, topics.duration / PLAY_SECONDS)
            say(f"{topics.messages} images over {topics.duration:.0f} s, played at {rate:.2f} of their rate")
            recording = record(bag, ROOT / "config" / "slam.yaml", options.output / "node.log", image=topics.image,
                               camera_info=topics.camera_info, camera_frame=topics.frame, compressed=topics.compressed,
                               rate=rate, settings={"seed": options.seed}, say=say)
        except (BagError, NodeError) as error:
            print(f"dev/demo: {error}", file=sys.stderr)
            return 1
    report = {"source": str(options.path or "rendered room"), "rate": rate, **counts(recording, topics)}
    if len(recording.stamps) < 3:
        print(f"dev/demo: the node placed {len(recording.stamps)} keyframes, too few to show; see "
              f"{options.output / 'node.log'}", file=sys.stderr)
        return 1
    write_results(options.output, recording, truth, report)
    say("done\n")
    print(summary(report, options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
