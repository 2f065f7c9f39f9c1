"""replay: a recorded sequence through the pipeline, without ROS; see `vggt_ros/replay`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from typing import Any

from vggt_ros.arguments import add_settings, given_path, positive
from vggt_ros.cli.interrupts import INTERRUPTED, ends_in_order, stoppable
from vggt_ros.config import Config
from vggt_ros.geometry.poses import BODY_OPTICAL
from vggt_ros.heap import keep_free_memory
from vggt_ros.reconstruction.base import ReconstructorLost
from vggt_ros.replay.advice import contradicted_calibration, why_no_map, why_not_located
from vggt_ros.replay.metric_sources import MetricData
from vggt_ros.replay.output import save, summary, write
from vggt_ros.replay.run import Run, run
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import SequenceError
from vggt_ros.settings import ConfigError
from vggt_ros.storage.files import FileError, output_folder, read_trajectory
from vggt_ros.storage.map_folder import StorageError, check_replaceable, load_map
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.threads import single_threaded_blas, single_threaded_opencv
from vggt_ros.view.opening import ViewError, add_view_arguments, open_view, web_address
from vggt_ros.view.slam_view import SlamView
from vggt_ros.workers.opening import MAX_WORKERS, open_pool

_STOPPING = "interrupted: what is mapped so far is written; once more ends without it"


def add_sequence_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for reading a sequence, and for settings."""
    add_settings(parser)
    for kind, what in (("image", "images"), ("info", "calibration, or `none`"), ("truth", "ground truth")):
        parser.add_argument(f"--{kind}-topic", default="", metavar="TOPIC", help=f"topic of a bag's {what}")
    parser.add_argument("--calibration", type=given_path, metavar="FILE", help="calibration of the camera, as numbers "
                        "`fx fy cx cy [k1 k2 p1 p2 [k3]]`, or of ROS, Kalibr, ORB-SLAM, OpenCV or COLMAP; or `none`")
    parser.add_argument("--rate", type=positive,
                        help="images a second in a folder of images (default: the times in their names, or 10)")


@ends_in_order(ConfigError, FileError, StorageError, ReconstructorLost, ViewError, OSError)
def main(args: list[str] | None = None, prog: str = "replay") -> int:
    """Replay the sequence named on the command line."""
    parser = argparse.ArgumentParser(prog=prog, description="Runs a sequence through the pipeline, without ROS.")
    parser.add_argument("sequence", type=given_path, help="folder with rgb.txt, bag, video or folder of images")
    parser.add_argument("--output", type=given_path, required=True, metavar="FOLDER", help="folder for the results")
    parser.add_argument("--seed", type=int, help="random seed; the same as --set seed=N")
    parser.add_argument("--odometry", type=given_path, metavar="FILE",
                        help="another odometry for metric scale: the camera's poses in meters, in TUM's format")
    parser.add_argument("--depth-source", action="store_true",
                        help="take metric scale from the sequence's depth images")
    parser.add_argument("--depth", action="store_true", help="write the keyframes' depth maps too")
    parser.add_argument("--save", type=given_path, metavar="MAP", help="save the map as this folder")
    parser.add_argument("--load", type=given_path, metavar="MAP",
                        help="continue a saved map; with --set mode=localization only locate the images in it")
    parser.add_argument("--workers", type=int, metavar="N", help="solve windows in N processes, those of images ahead "
                        "too; with --ray in N workers of the cluster. The results are the same")
    parser.add_argument("--ray", metavar="ADDRESS", help="solve windows on a Ray cluster: HOST:PORT, `auto`, or "
                        "`local` for one on this machine (default: a worker on each GPU, or on each core)")
    add_view_arguments(parser, native=True)
    add_sequence_arguments(parser)
    options = parser.parse_args(args)
    keep_free_memory()
    single_threaded_blas()
    single_threaded_opencv()
    config = Config().parse(options.set + ([] if options.seed is None else [f"seed={options.seed}"]))
    if config.mode == "localization" and options.load is None:
        raise ConfigError("mode localization needs a saved map: --load MAP")
    if options.workers is not None and not 1 <= options.workers <= MAX_WORKERS:
        raise ConfigError(f"--workers {options.workers}: from 1 to {MAX_WORKERS}")
    loaded = None if options.load is None else load_map(options.load)
    sequence = open_sequence(options.sequence, image_topic=options.image_topic, info_topic=options.info_topic,
                             truth_topic=options.truth_topic, fov=config.camera.fov, rate=options.rate,
                             calibration=options.calibration)
    if options.depth_source and next(sequence.depths(), None) is None:
        raise SequenceError(f"{options.sequence}: it has no depth images for --depth-source; a folder has "
                            "them in depth.txt")
    other = read_trajectory(options.odometry) if options.odometry else None
    if options.save is not None:
        check_replaceable(options.save)
    output = output_folder(options.output, options.sequence)
    for line in sequence.assumptions:
        print(f"assumed: {line}", file=sys.stderr)
    view = _open_view(options, loaded)
    callbacks: dict[str, Any] = {"on_update": view.on_update, "on_frame": view.on_frame} if view else {}
    workers = open_pool(config, options.workers, options.ray) if options.workers or options.ray else None
    with stoppable(_STOPPING) as stop:
        with contextlib.closing(workers) if workers else contextlib.nullcontext():
            result = run(sequence, config, progress=True, metric=MetricData(other, options.depth_source), loaded=loaded,
                         workers=workers, stop=stop, **callbacks)
        if view is not None:
            view.show_map(result.slam)  # with all depth that windows left for later ones
        figures = write(result, output, options.depth)
        _say(result, figures)
        saves = options.save is not None and len(result.slam.solution) > 0
        if saves:
            save(result, options.save)
    print(f"{summary(figures)}\nwritten to {options.output}")
    if options.save is not None:
        print(f"the map is saved in {options.save}" if saves else "no map is saved")
    if options.web is not None and not stop():
        print("the web page stays until Ctrl-C", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    if view is not None:
        view.close()
    if stop():
        return INTERRUPTED
    return 0 if figures["images_located"] or figures["keyframes"] else 2


def _say(result: Run, figures: dict[str, Any]) -> None:
    """Print what happened besides the figures."""
    if result.interrupted:
        print(f"interrupted after {figures['images']} of {len(result.sequence)} images", file=sys.stderr)
    if result.workers:
        print("{ahead} windows solved ahead by {workers} workers, {unexpected} not expected, {retries} sent again, "
              "expectations corrected {corrections} times".format(**result.workers))
    if result.dropped_images:
        print(f"left out: {result.dropped_images} images that are no newer than the one before", file=sys.stderr)
    for jump in result.jumps:
        print(f"{jump}: the images from there on do not continue those before; they begin a submap unless they are "
              "found in the map", file=sys.stderr)
    for line in result.sequence.omitted.lines:
        print(line, file=sys.stderr)
    if result.dark_images:
        print(f"dark: {result.dark_images} of {figures['images']} images, in which nothing could be tracked",
              file=sys.stderr)
    if result.failures:
        print(f"failed: {len(result.failures)} images and windows; {result.failures[0]}", file=sys.stderr)
    for reason in figures["refusals"]:
        print(f"refused: {reason}", file=sys.stderr)
    if wrong := contradicted_calibration(result):
        print(f"calibration: {wrong}", file=sys.stderr)
    if lacking := why_no_map(result):
        print(f"no map: {lacking}", file=sys.stderr)
    if lacking := why_not_located(result):
        print(f"not located: {lacking}", file=sys.stderr)


def _open_view(options: argparse.Namespace, loaded: MapRecord | None) -> SlamView | None:
    """Return the view that the options ask for, or None; raises ViewError if it cannot be opened."""
    if not (options.view or options.rrd or options.web is not None):
        return None
    scene = open_view(options.web, options.rrd)
    if options.web is not None:
        print(f"the run is shown at {web_address(options.web)}", flush=True)
    return SlamView(scene, BODY_OPTICAL if loaded is None else loaded.map_world)


if __name__ == "__main__":
    sys.exit(main())
