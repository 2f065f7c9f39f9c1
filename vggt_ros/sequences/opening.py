"""Opens a sequence of whichever kind is at a path."""

from __future__ import annotations

import os
from pathlib import Path

from vggt_ros.sequences.image_folder import ImageFolder
from vggt_ros.sequences.image_list import BAG_SUFFIXES, SUFFIXES, UNREAD, find_list, storage_files
from vggt_ros.sequences.sequence import Sequence, SequenceError
from vggt_ros.sequences.video import Video


def open_sequence(path: Path | str, *, image_topic: str = "", info_topic: str = "", truth_topic: str = "",
                  fov: float = 65.0, rate: float | None = None, calibration: Path | None = None) -> Sequence:
    """Open a folder with `rgb.txt`, a bag, a video or a folder of images.

    Args:
        path: a folder with `rgb.txt` (or that file), a recording in EuRoC's format, of which `cam0` is taken, one of
            KITTI's odometry (its first camera), a rosbag2 (folder, metadata.yaml or storage file), a folder that holds
            one in `bag/`, a bag of ROS 1, a video file, or a folder of images, which are sorted by the numbers in their
            names. `~` is expanded.
        image_topic, info_topic, truth_topic: of a bag; empty: chosen by type.
        fov: field of view along the longer side in degrees, assumed where there is no calibration.
        calibration: file with the calibration, or `none`; None: that of the recording.
        rate: images a second, assumed for a folder of images; None: by the times in their names, or 10.

    Raises:
        SequenceError: there is no sequence at `path`, or it is none that has topics or takes a rate.

    """
    path = Path(os.path.expanduser(path))
    if not path.exists():
        raise SequenceError(f"{path}: no such file or folder")
    if path.name == "metadata.yaml" or path in (find_list(path.parent) or ())[:1]:
        path = path.parent
    named = next((topic for topic in (image_topic, info_topic, truth_topic) if topic), "")
    if listed := next((folder for folder in (path, path / "cam0", path / "mav0" / "cam0") if find_list(folder)), None):
        path = listed
        _refuse_unused(path, "a folder of images", named, rate)
        return ImageFolder(path, fov=fov, calibration=calibration)
    if bag := bag_at(path):
        from vggt_ros.sequences.bag import BagSequence  # only bags need the package rosbags

        _refuse_unused(path, "a bag", "", rate)
        return BagSequence(bag, image_topic, info_topic, truth_topic, fov, calibration)
    if path.is_file() and path.name.endswith((".db3.zstd", ".mcap.zstd")):
        raise SequenceError(f"{path}: a compressed file of a bag; name its folder, {path.parent}")
    if path.is_file() and path.name.endswith(".bag.active"):
        raise SequenceError(f"{path}: a bag of ROS 1 that was not closed; `rosbag reindex` mends it")
    if path.is_file() and path.suffix.lower() in UNREAD:
        raise SequenceError(f"{path}: an image or an animation, which is not read; convert it to a video or to JPEG")
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        raise SequenceError(f"{path}: a single image; name the folder of the images, or a video")
    if path.is_dir() and (bags := [file for file in path.iterdir() if file.suffix == ".bag"]):
        raise SequenceError(f"{path}: a folder with bags of ROS 1; name one of them, such as {min(bags)}")
    if (path / "times.txt").exists():  # of KITTI
        path = next((path / f"image_{number}" for number in range(4) if (path / f"image_{number}").is_dir()), path)
    _refuse_unused(path, "a folder of images" if path.is_dir() else "a video", named, None if path.is_dir() else rate)
    if path.is_dir():
        return ImageFolder(path, fov=fov, rate=rate, calibration=calibration)
    return Video(path, fov, calibration)


def bag_at(path: Path) -> Path | None:
    """Return the bag at a path or in its folder `bag`; None if there is none."""
    return next((bag for bag in (path / "bag", path)
                 if (bag / "metadata.yaml").exists() or bag.suffix in BAG_SUFFIXES or storage_files(bag)), None)


def _refuse_unused(path: Path, kind: str, topic: str, rate: float | None) -> None:
    """Raise SequenceError if a topic is asked for, or a rate is given, and this kind of sequence does not have it."""
    if topic:
        raise SequenceError(f"{path}: {kind} has no topics such as {topic}")
    if rate is not None:
        raise SequenceError(f"{path}: {kind} with times of its own takes no rate ({rate:g} was given); only a folder "
                            "of images without rgb.txt does")
