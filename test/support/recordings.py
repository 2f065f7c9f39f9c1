"""Small recordings that tests write: folders of images and bags of ROS 1 and ROS 2."""

from __future__ import annotations

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

TYPES = {1: get_typestore(Stores.ROS1_NOETIC), 2: get_typestore(Stores.ROS2_JAZZY)}
STAMP = 1_700_000_000_123_456_789


def pictures(count=4, size=(64, 48)):
    """Return different images (h, w, 3) for a size (w, h)."""
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), size) for _ in range(count)]


def write_folder(path, images, suffix=".png"):
    path.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        cv2.imwrite(str(path / f"{index:03d}{suffix}"), image[..., ::-1])


def header(stamp, ros=2, frame="camera"):
    make = TYPES[ros].types
    time = make["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    return make["std_msgs/msg/Header"](*([0] if ros == 1 else []), time, frame)


def camera_info(stamp, size=(64, 48), ros=2, **changes):
    """Return a CameraInfo with fields changed; its K is 50 0 31.5; 0 51 23.5; 0 0 1."""
    make = TYPES[ros].types
    fields = {"height": size[1], "width": size[0], "distortion_model": "plumb_bob", "d": [0.1, 0.01, 0, 0, 0],
              "k": [50, 0, 31.5, 0, 51, 23.5, 0, 0, 1], "r": np.eye(3).ravel(), "p": np.zeros(12), "binning_x": 0,
              "binning_y": 0, "roi": make["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False), **changes}
    for name in "dkrp":
        fields[name] = np.array(fields[name], float)
    return make["sensor_msgs/msg/CameraInfo"](header(stamp, ros), *fields.values())


def raw_image(stamp, image, ros=2):
    """Return a bgr8 Image whose rows are padded by 5 bytes."""
    height, width = image.shape[:2]
    padded = np.zeros((height, width * 3 + 5), np.uint8)
    padded[:, :width * 3] = image[..., ::-1].reshape(height, -1)
    return TYPES[ros].types["sensor_msgs/msg/Image"](header(stamp, ros), height, width, "bgr8", 0, width * 3 + 5,
                                                     padded.reshape(-1))


def write_messages(path, messages, ros=2, mcap=False):
    """Write a bag of (topic, stamp, message), or of (topic, stamp, type, bytes) for what cannot be serialized."""
    store = TYPES[ros]
    plugin = StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3
    with Writer(path, version=9, storage_plugin=plugin) if ros == 2 else Writer1(path) as writer:
        topics = {}
        for topic, stamp, *message in messages:
            kind = message[0] if len(message) == 2 else message[0].__msgtype__
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=store)
            data = message[1] if len(message) == 2 else (
                store.serialize_cdr if ros == 2 else store.serialize_ros1)(message[0], kind)
            writer.write(topics[topic], stamp + 12345, data)


def write_bag(path, images, info=True, truth=True, others=(), first=50.0, binning=0, unturned=0):
    """Write images, calibration and truth; topics `others` have the same images, `unturned` poses have no rotation."""
    make, messages = TYPES[2].types, []
    for index, image in enumerate(images):
        stamp = STAMP + index * 10**8
        messages += [(topic, stamp, raw_image(stamp, image)) for topic in ("/cam/image_raw", *others)]
        if info:
            matrix = [first, 0, 31.5, 0, 51, 23.5, 0, 0, 1.0]
            messages.append(("/cam/camera_info", stamp, camera_info(stamp, image.shape[1::-1], k=matrix,
                                                                    binning_x=binning, binning_y=binning)))
        if truth:
            turn = make["geometry_msgs/msg/Quaternion"](0.0, 0.0, float(index >= unturned), 0.0)
            place = make["geometry_msgs/msg/Point"](index, 0.0, 1.0)
            messages.append(("/pose", stamp, make["geometry_msgs/msg/PoseStamped"](
                header(stamp), make["geometry_msgs/msg/Pose"](place, turn))))
    write_messages(path, messages)


def write_split_bag(folder, parts=3, of=2, mcap=True, names="drive_{}"):
    """Write a rosbag2 of several files, with `of` images each and without metadata.yaml; return the files."""
    folder.mkdir()
    files = []
    for part in range(parts):
        written = folder.parent / f"part_{part}"
        stamps = [STAMP + (part * of + index) * 10**8 for index in range(of)]
        write_messages(written, [("/cam/image_raw", stamp, raw_image(stamp, image))
                                 for stamp, image in zip(stamps, pictures(of), strict=True)], mcap=mcap)
        (storage,) = (file for file in written.iterdir() if file.suffix != ".yaml")
        files.append(storage.rename(folder / f"{names.format(part)}{storage.suffix}"))
    return files
