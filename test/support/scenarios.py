"""Integration scenarios of vggt_slam, tested through its ROS interfaces only.

Each scenario gets a launcher, which starts processes, and a peer, which communicates with them. The scenarios are run
by test_integration.py with processes, and by launch/test_slam_launch.py under launch_testing.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from domains import ros_environment
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from paths import ROOT
from peer import CAMERA, Peer, matrix, stamp
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from scenes import SIZE, lap
from sensor_msgs.msg import PointCloud2
from stage import ended_cleanly
from tf2_msgs.msg import TFMessage

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import BODY_OPTICAL, umeyama
from vggt_ros.process_info import children
from vggt_ros.ros.conversions import messages
from vggt_ros.ros.tools.bag_player import message_class

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STATIC = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SMALL = {"reconstructor": "multiview", "windows.size": 4, "windows.overlap": 2, "tracking.features": 200,
         "multiview.corners": 300, "windows.flush_after": 0.0, "tf.base_timeout": 0.0, "tf.assume_level": True,
         "map.period": 0.0}
"""Settings with which one CPU core solves a window in less than a second."""
IMAGES = 36


@cache
def sequence():
    """A fifth of a lap around the room."""
    return lap(IMAGES, 0.2)


OUTPUTS = {"status": (DiagnosticStatus, LATCHED), "odom": (Odometry, 100), "pose": (PoseWithCovarianceStamped, 100),
           "path": (PathMessage, LATCHED)}


class NodeWatch:
    """Records the outputs of a node, and evaluates its status and poses."""

    def __init__(self, peer, node="/vggt_slam"):
        self.peer, self.node = peer, node
        for name, (kind, qos) in OUTPUTS.items():
            peer.record(f"{node}/{name}", kind, qos)

    def __getitem__(self, name):
        """Return all messages received on an output."""
        return self.peer.got[f"{self.node}/{name}".removeprefix("/vggt_slam/")]

    @property
    def status(self):
        return {item.key: item.value for item in self["status"][-1].values} if self["status"] else {}

    @property
    def tracked(self):
        """Odometry messages that have a pose."""
        return [message for message in self["odom"] if message.pose.covariance[0] < 1e5]

    @property
    def busy(self):
        """Whether a window is being solved."""
        return self.status.get("worker") == "busy"

    def solved(self, count):
        """Return whether `count` windows were added to the map, and the camera is tracked in it."""
        return self.status.get("state") == "TRACKING" and self.added >= count

    @property
    def added(self):
        """How many windows were added to the map."""
        return int(self.status.get("windows", 0)) - int(self.status.get("refused", 0))

    def until(self, condition, seconds=100.0):
        """Spin until a condition holds; otherwise fail with the status of the node."""
        assert self.peer.spin(condition, seconds), self.status

    def max_error(self, camera, poses=15, since=0):
        """Return the largest error of the next poses in a map of two windows, meters, after the best similarity.

        A map of one window after `since` is left soon, and the second window corrects its poses.
        """
        self.until(lambda: self.solved(2) and any(stamp(message) > since for message in self["pose"]))
        solved = max(camera.sent)
        self.until(lambda: sum(stamp(message) > solved for message in self["pose"]) > poses)
        numbers, there = camera.positions(message for message in self["pose"] if stamp(message) > solved)
        truth = sequence().world_camera[numbers, :3, 3]
        return float(np.linalg.norm(umeyama(there, truth).apply(there) - truth, axis=1).max())


def parents(peer, *topics):
    """Return the TF tree on the topics, by default /tf and /tf_static: child to its set of parents."""
    found = {}
    for message in (message for topic in topics or ("/tf", "/tf_static") for message in peer.got[topic]):
        for link in message.transforms:
            found.setdefault(link.child_frame_id, set()).add(link.header.frame_id)
    return found


def record_transforms(peer):
    peer.record("/tf", TFMessage, 1000)
    peer.record("/tf_static", TFMessage, STATIC)


# The scenarios.


def defaults(launcher, peer):
    """Started without arguments: activated automatically, topics match any reliability, one TF tree, TF in time."""
    watch, camera = NodeWatch(peer), peer.camera(sequence().frames, reliability=ReliabilityPolicy.BEST_EFFORT)
    record_transforms(peer)
    mounting = peer.peer.create_publisher(TFMessage, "/tf_static", STATIC)
    mounting.publish(TFMessage(transforms=[messages.transform(BODY_OPTICAL, 0, "base_link", CAMERA)]))
    launcher.start()
    watch.until(lambda: camera.connected)
    assert peer.state() == "active"
    names = [setting.name for setting, _ in Config()]
    assert peer.parameters(*names) == [value for _, value in Config()]
    received, subscriptions = every_topic_in_both_reliabilities(peer)
    camera.on = True
    watch.until(lambda: watch.solved(1) and not [name for name, count in received.items() if not count])
    for subscription in subscriptions:
        peer.peer.destroy_subscription(subscription)
    transforms_are_in_time(watch)
    tree = {"odom": {"map"}, "base_link": {"odom"}, CAMERA: {"base_link"}}
    assert peer.spin(lambda: parents(peer) == tree, 5.0), parents(peer)
    assert watch.max_error(camera, IMAGES) < 0.05


def transforms_are_in_time(watch, images=25):
    """The transform at the stamp of each image is available to a listener within 0.1 s, at the rate of the images.

    If the machine is too slow and the odometry of an image takes longer, the transform may, too.
    """
    program = Path(__file__).with_name("image_listener.py")
    listener = subprocess.Popen([sys.executable, program, "/camera/image_raw", "/vggt_slam/odom", "map", CAMERA,
                                 str(images)], stdout=subprocess.PIPE, text=True)
    try:
        watch.until(lambda: listener.poll() is not None)
    finally:
        listener.kill()
    watch.peer.spin(seconds=0.2)
    posed = {stamp(message) for message in watch.tracked}
    found = [(tf, odom) for when, tf, odom in json.loads(listener.communicate()[0]) if when in posed]
    assert len(found) > 0.8 * images
    assert not [tf for tf, _ in found if tf is None], "no transform at all"
    waited = np.array(found, float)  # NaN where the odometry did not come
    print("seconds until transform and odometry, median and longest:", np.nanmedian(waited, 0), np.nanmax(waited, 0))
    late = waited[waited[:, 0] > np.fmax(0.1, waited[:, 1] + 0.02)]  # the listener may be stopped at any moment
    assert len(late) <= 0.1 * len(waited), late


def every_topic_in_both_reliabilities(peer, node="vggt_slam"):
    """Subscribe to all outputs of the node, reliable and best effort; return message counts and subscriptions."""
    received, subscriptions = {}, []
    topics = dict(peer.peer.get_publisher_names_and_types_by_node(node, "/"))
    for topic, (kind,) in topics.items():
        if topic in ("/tf", "/diagnostics") or (topic.startswith(f"/{node}/") and "transition" not in topic):
            for reliability in (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT):
                key = f"{topic} {reliability.name}"
                received[key] = 0
                subscriptions.append(peer.peer.create_subscription(
                    message_class(kind), topic, _counter(received, key), QoSProfile(depth=10, reliability=reliability)))
    assert len(received) >= 2 * 12
    return received, subscriptions


def _counter(counts, key):
    def count(_):
        counts[key] += 1
    return count


def lifecycle(launcher, peer):
    """Repeatedly deactivated, cleaned up and ended while a window is solved: mapping works afterwards as before."""
    watch, camera = NodeWatch(peer), peer.camera(sequence().frames)
    node = launcher.start(slam_params_file=launcher.settings(**SMALL), slam_autostart="false")
    assert peer.state() == "unconfigured"
    peer.change("configure", "activate")
    watch.until(lambda: camera.connected)
    for cycle in (("deactivate", "activate"), ("deactivate", "cleanup", "configure", "activate")) * 2:
        camera.on = True
        watch.until(lambda: watch.busy)
        peer.change(*cycle)
        if "cleanup" in cycle:
            peer.got["path"].clear()
            began = max(camera.sent)
    error = watch.max_error(camera, since=began)
    assert min(stamp(item) for item in watch["path"][-1].poses) > began, "the map has a window from before the cleanup"
    assert watch.status["submaps"] == "1"
    assert error < 0.05
    record_transforms(peer)  # a late subscriber gets the whole tree, too
    watch.until(lambda: parents(peer) == {"odom": {"map"}, "base_link": {"odom"}, CAMERA: {"base_link"}}, 5.0)
    watch.until(lambda: watch.busy)
    child_processes = children(node.pid)
    assert child_processes, "the reconstructor has no process of its own"
    launcher.signal(node, signal.SIGTERM)
    assert ended_cleanly(node), node.log
    assert peer.spin(lambda: have_ended(child_processes), 10.0)


def have_ended(processes):
    return not [pid for pid in processes if Path("/proc", str(pid)).exists()]


def parameters(launcher, peer):
    """Live parameters take effect at once, also while a window is solved; changes of others are refused by name."""
    watch, camera = NodeWatch(peer), peer.camera(sequence().frames)
    maps = []
    peer.peer.create_subscription(PointCloud2, "/vggt_slam/cloud_map", maps.append, LATCHED)
    launcher.start(slam_params_file=launcher.settings(**SMALL))
    camera.on = True
    watch.until(lambda: watch.solved(2) and watch.busy and maps)
    refused = peer.set(windows__size=5, map__min_confidence=5.0, map__name=3, nonsense=1)
    assert all(refused), refused
    assert peer.parameters("windows.size", "map.min_confidence", "map.name") == [4, 0.25, "map"]
    length = path_length(watch)
    camera.on = False
    watch.until(lambda: not watch.busy)
    watch.peer.spin(seconds=2.5)  # the map of the last window is out: `map.period`
    before = maps[-1].width
    maps.clear()
    assert peer.set(map__max_depth=1.0) == [""]  # of the median depth of each keyframe; neighbors see part of the rest
    watch.until(lambda: maps and maps[-1].width < 0.9 * before)
    camera.on = True
    assert peer.set(scale__factor=2.0) == [""]
    watch.until(lambda: path_length(watch) > 1.8 * length and watch.status["scale"] == "PRIOR")
    peer.change("deactivate")
    assert peer.set(map__max_depth=8.0) == [""]
    maps.clear()
    peer.change("activate")
    watch.until(lambda: maps and maps[-1].width > 0.9 * before)
    watch.until(lambda: watch.solved(4))


def path_length(watch):
    """Return the path length over the keyframes of the first window, map units."""
    there = np.array([matrix(item.pose)[:3, 3] for item in watch["path"][-1].poses[:4]])
    return float(np.linalg.norm(np.diff(there, axis=0), axis=1).sum())


def restart(launcher, peer):
    """Killed while solving a window and saving: no process remains, and the new node localizes in the saved map."""
    watch, camera = NodeWatch(peer), peer.camera(sequence().frames)
    settings = {**SMALL, "map.folder": str(launcher.folder / "maps")}
    node = launcher.start(slam_params_file=launcher.settings(**settings), slam_autostart="false")
    peer.change("configure", "activate")
    camera.on = True
    watch.until(lambda: watch.solved(4))
    camera.on = False
    watch.until(lambda: not watch.busy)
    saved = peer.call("save_map")
    assert saved.success, saved.message
    path, truth = camera.positions(watch["path"][-1].poses), sequence().world_camera[:, :3, 3]
    world_map, count = umeyama(path[1], truth[path[0]]), str(len(path[0]))
    camera.on = True
    watch.until(lambda: watch.busy)
    child_processes = children(node.pid)
    assert child_processes, "the reconstructor has no process of its own"
    peer.call("save_map", wait=False)
    assert launcher.signal(node, signal.SIGKILL) == -signal.SIGKILL
    camera.on = False
    assert peer.spin(lambda: have_ended(child_processes), 10.0), "the reconstructor outlives the killed node"
    for name in OUTPUTS:
        watch[name].clear()
    # Not by autostart: the request of launch would go to the killed node, which DDS lists for a while.
    launcher.start(slam_params_file=launcher.settings("again", mode="localization", **settings), slam_autostart="false")
    assert peer.state() == "unconfigured"
    peer.change("configure", "activate")
    watch.until(lambda: watch.status.get("keyframes placed") == count)
    began, camera.on = max(camera.sent), True
    watch.until(lambda: len([message for message in watch["pose"] if stamp(message) > began]) > 20)
    numbers, there = camera.positions(message for message in watch["pose"] if stamp(message) > began)
    errors = np.linalg.norm(world_map.apply(there) - truth[numbers], axis=1)
    assert np.median(errors) < 0.03, errors
    assert watch.status["keyframes placed"] == count, "the map has grown in mode localization"


def bag(launcher, peer):
    """A bag of compressed images with bag time; then a looping bag: the map is reset at each start."""
    watch, folder = NodeWatch(peer), launcher.folder / "bag"
    write_bag(folder)
    stamps = {frame.stamp for frame in sequence().frames}
    record_transforms(peer)
    launcher.start(bag=str(folder), transport="compressed", slam_params_file=launcher.settings(**SMALL))
    assert peer.parameters("use_sim_time") == [True]
    watch.until(lambda: int(watch.status.get("images received", 0)) > 0.9 * IMAGES)  # best effort: some may be lost
    peer.spin(lambda: watch.status["images received"] == str(IMAGES), 3.0)
    assert watch.status["images early"] == "0", "the bag starts before the reconstructor is loaded"
    received = int(watch.status["images received"])
    assert int(watch.status["frames"]) + int(watch.status["images waiting"]) == received  # for CameraInfo
    assert len(watch["odom"]) > 0.9 * IMAGES and {stamp(message) for message in watch["odom"]} <= stamps
    watch.until(lambda: watch.added >= 2 and not watch.busy)  # on a busy machine after the last image: not yet tracked
    assert {stamp(item) for item in watch["path"][-1].poses} <= stamps
    player = launcher.run("bag_player", folder, "--clock", "--loop", "--rate", 0.4,  # the map is solved in a round
                          "--wait-for", "/camera/image_raw/compressed")
    watch.until(lambda: watch.status.get("resets") == "2")
    watch.until(lambda: watch.solved(2))
    assert watch.status["submaps"] == "1" and watch.status["images failed"] == "0"
    of_map = {stamp(link) for message in peer.got["/tf"] for link in message.transforms
              if link.child_frame_id == "odom"}
    assert of_map and min(stamps) <= min(of_map) and max(of_map) <= max(stamps) + 200_000_000
    launcher.signal(player, signal.SIGINT)
    assert ended_cleanly(player), player.log


def write_bag(folder):
    """Write the sequence as a rosbag2 of JPEG images."""
    sys.path.append(str(ROOT / "dev"))
    from bags import jpeg
    from bags import write_bag as write

    write(folder, ((frame.stamp, jpeg(frame.image)) for frame in sequence().frames),
          Camera(*SIZE, sequence().frames[0].intrinsics))


def two_nodes(launcher, peer):
    """Two robots with the same frames, each in its namespace; images and TF of one do not reach the other node."""
    watches = {name: NodeWatch(peer, f"/{name}/vggt_slam") for name in "ab"}
    cameras = {"a": peer.camera(sequence().frames, "/front/rgb/image", "/front/rgb/camera_info", compressed=True),
               "b": peer.camera(sequence().frames, "/rear/image", "/calibration/rear")}
    mountings = []
    for name in "ab":
        peer.record(f"/{name}/tf", TFMessage, 1000)
        mountings.append(peer.peer.create_publisher(TFMessage, f"/{name}/tf_static", STATIC))
        mountings[-1].publish(TFMessage(transforms=[messages.transform(BODY_OPTICAL, 0, "base_link", CAMERA)]))
    record_transforms(peer)
    settings = launcher.settings(**{**SMALL, "tf.assume_level": False, "tf.base_timeout": 5.0})
    launcher.start(namespace="a", image="/front/rgb/image", transport="compressed", slam_params_file=settings)
    launcher.start(namespace="b", image="/rear/image", camera_info="/calibration/rear", slam_autostart="false",
                   use_sim_time="false", slam_params_file=settings)
    assert peer.state("/b/vggt_slam") == "unconfigured"
    watches["a"].until(lambda: cameras["a"].connected)
    peer.change("configure", "activate", node="/b/vggt_slam")
    watches["b"].until(lambda: cameras["b"].connected)
    cameras["a"].on = True
    assert watches["a"].max_error(cameras["a"]) < 0.05
    assert not watches["b"]["odom"], "it receives the images of the other camera"
    assert not peer.got["/b/tf"], "it sends transforms for the images of the other camera"
    cameras["a"].on, before = False, -1
    while before < len(watches["a"]["odom"]):  # images on their way, on a busy machine
        before = len(watches["a"]["odom"])
        peer.spin(seconds=1.0)
    before, cameras["b"].on = len(watches["a"]["odom"]), True
    assert watches["b"].max_error(cameras["b"]) < 0.05
    assert len(watches["a"]["odom"]) == before
    for name in "ab":
        assert watches[name].status["image topic"].startswith("/front" if name == "a" else "/rear")
        assert parents(peer, f"/{name}/tf") == {"odom": {"map"}, "base_link": {"odom"}}
    assert not peer.got["/tf"] and not peer.got["/tf_static"], "TF of a robot in a namespace is in the namespace"


def rviz(launcher, peer):
    """With rviz:=true the node and RViz start."""
    launcher.start(rviz="true", slam_params_file=launcher.settings(**SMALL))
    watch, camera = NodeWatch(peer), peer.camera(sequence().frames)
    watch.until(lambda: camera.connected and any("rviz" in name for name in peer.peer.get_node_names()))


SCENARIOS = {scenario.__name__: scenario
             for scenario in (defaults, lifecycle, parameters, restart, bag, two_nodes, rviz)}


def run_scenario(name, make_launcher, folder):
    """Run a scenario on its own DDS domain, and end all processes that it started."""
    sequence()
    with ros_environment(folder):
        _run(SCENARIOS[name], make_launcher, folder)


def _run(scenario, make_launcher, folder):
    peer = Peer()
    launcher = make_launcher(peer, folder)
    try:
        scenario(launcher, peer)
    except BaseException:
        for process in launcher.started:
            print(f"--- {process.pid}\n{process.log}")
        raise
    finally:
        try:
            launcher.close()
        finally:
            peer.close()
