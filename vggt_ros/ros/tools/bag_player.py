"""Plays a rosbag2 (sqlite3 or mcap), also on machines without `ros2 bag`.

Messages are published as the serialized bytes that were recorded; they are not decoded, so stamps and encodings are
exact.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosbags.interfaces import Connection, QosDurability
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock
from tqdm import tqdm

from vggt_ros.arguments import given_path, not_negative, positive
from vggt_ros.ros.common.interrupts import single_interrupt
from vggt_ros.ros.common.spinning import initialize, without_ros_arguments
from vggt_ros.sequences.bag_files import readable
from vggt_ros.sequences.sequence import SequenceError

CLOCK_PERIOD = 0.02
"""Longest time between two messages on /clock, seconds of wall time."""
_SILENCE = 5.0
"""Seconds after which a status that nobody sends is named."""
DISCOVERY_DELAY = 0.5
"""Seconds to wait after a subscriber was discovered.

It may not have discovered this publisher yet; with best effort it would miss the first messages.
"""
QUEUE_DEPTH = 1000
"""Messages queued for a reliable subscriber that is slower than the bag."""


class BagError(Exception):
    """A bag cannot be opened or read; the text names the bag and the reason."""


def open_bag(path: Path) -> Reader:
    """Return the opened reader of a rosbag2: its folder, its metadata.yaml, or a single .mcap or .db3 file.

    Raises:
        BagError: there is no such file or folder, or it is not a readable rosbag2.

    """
    if path.name == "metadata.yaml":
        path = path.parent
    if not path.exists():
        raise BagError(f"{path}: no such file or folder")
    if path.suffix == ".bag":
        raise BagError(f"{path}: a bag of ROS 1; `rosbags-convert` makes a rosbag2 of it; `replay` reads it as it is")
    if path.is_dir() and not (path / "metadata.yaml").exists():
        raise BagError(f"{path}: not a rosbag2, there is no metadata.yaml in it (`ros2 bag reindex` recreates it)")
    try:
        reader = Reader(path)
        reader.open()
    except Exception as error:  # a damaged file may raise any error in its parser
        raise BagError(f"{path}: not a readable rosbag2 ({_what_is_damaged(path) or error})") from error
    return reader


def _what_is_damaged(path: Path) -> str:
    """Return which files of a bag are whole and which are not; empty if that is not known."""
    try:
        return readable(path)[1]
    except SequenceError:
        return ""


def message_class(name: str) -> Any | None:
    """Return the class of a type such as `sensor_msgs/msg/Image`, or None if its package is not installed."""
    package, _, message = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), message, None)
    except ImportError:
        return None


class BagPlayer(Node):
    """Publishes the messages of a bag with their recorded timing."""

    def __init__(self, reader: Reader, topics: list[str] | None = None, clock: bool = False) -> None:
        """Create a publisher for each topic, or only for those in `topics`.

        Raises:
            BagError: a topic of `topics` is not in the bag, or there is no message to play.

        """
        super().__init__("bag_player")
        self.reader = reader
        known = {connection.topic for connection in reader.connections}
        missing = sorted(set(topics or ()) - known)
        if missing:
            raise BagError(f"{reader.path}: no topic {', '.join(missing)}; the bag has {', '.join(sorted(known))}")
        self.connections = []
        self.publisher_by_connection: dict[int, Publisher] = {}
        by_topic: dict[str, Publisher] = {}
        for connection in reader.connections:
            if topics and connection.topic not in topics:
                continue
            message_type = message_class(connection.msgtype)
            if message_type is None:
                self.get_logger().warning(f"{connection.topic}: skipped, {connection.msgtype} is not installed")
                continue
            if connection.topic not in by_topic:
                by_topic[connection.topic] = self.create_publisher(message_type, connection.topic, _qos(connection))
            self.publisher_by_connection[connection.id] = by_topic[connection.topic]
            self.connections.append(connection)
        if not self.connections:
            raise BagError(f"{reader.path}: contains no message that can be played")
        has_clock = "/clock" in by_topic  # of a simulator: a second source of time would make it jump back and forth
        if clock and has_clock:
            self.get_logger().info("/clock is played from the bag; it is the only source of time")
        self.clock = self.create_publisher(Clock, "/clock", 10) if clock and not has_clock else None

    def wait_for(self, topics: list[str]) -> None:
        """Wait until each of `topics` has a subscriber; log every five seconds which topics have none."""
        last_log = time.monotonic()
        while missing := [topic for topic in topics if not self.count_subscribers(topic)]:
            if time.monotonic() - last_log > 5.0:
                last_log = time.monotonic()
                self.get_logger().info(f"waiting for a subscriber of {', '.join(missing)}")
            time.sleep(0.05)
        if topics:
            time.sleep(DISCOVERY_DELAY)

    def check(self, topics: list[str]) -> None:
        """Check that `topics` are played, before anybody waits for them.

        Raises:
            BagError: a topic is not in the bag; the text has the topics of the images that are in it.

        """
        if missing := [topic for topic in topics if self._resolved(topic) not in self._played()]:
            raise BagError(f"{self.reader.path}: no topic {', '.join(missing)}; the images in the bag are "
                           f"{self._image_topics() or 'none'}")

    def _resolved(self, topic: str) -> str:
        """Return the whole name of a topic; raises BagError if it is none."""
        try:
            return str(self.resolve_topic_name(topic))
        except rclpy_implementation.RCLError as error:
            raise BagError(f"{topic!r} is no name of a topic: letters, digits, _ and / make one") from error

    def _played(self) -> set[str]:
        """Return the names of the topics that are published."""
        played = {publisher.topic_name for publisher in self.publisher_by_connection.values()}
        return played | ({self.clock.topic_name} if self.clock is not None else set())

    def _image_topics(self) -> str:
        kinds = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
        return ", ".join(sorted({connection.topic for connection in self.connections if connection.msgtype in kinds}))

    def wait_ready(self, topic: str) -> None:
        """Wait until the node that publishes the status `topic` has loaded its reconstructor; it drops earlier images.

        Raises:
            BagError: loading failed, or the bag has that topic.

        """
        if self._resolved(topic) in self._played():
            raise BagError(f"{self.reader.path}: {topic} is a topic of the bag, not the status of a node")
        silent_from = time.monotonic() + _SILENCE
        states: list[DiagnosticStatus] = []
        subscription = self.create_subscription(DiagnosticStatus, topic, states.append,
                                                QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        while True:
            rclpy.spin_once(self, timeout_sec=0.1)
            state = next((item.value for item in states[-1].values if item.key == "state"), "") if states else "LOADING"
            if not states and time.monotonic() > silent_from:
                self.get_logger().warning(f"waiting for {topic}: {self.count_publishers(topic)} nodes publish it",
                                          throttle_duration_sec=30.0)
            if state == "FAILED":
                raise BagError(f"{self.reader.path}: not played, since the node failed: {states[-1].message}")
            if state != "LOADING":
                break
        self.destroy_subscription(subscription)

    def play(self, rate: float = 1.0) -> int:
        """Publish the whole bag once, `rate` times as fast as it was recorded; return the number of messages."""
        count, total = 0, sum(connection.msgcount for connection in self.connections)
        start, first = time.monotonic(), None
        with tqdm(total=total, unit="msg", disable=None) as bar:
            for connection, stamp, data in self._messages():
                first = stamp if first is None else first
                self._sleep_until(start + (stamp - first) / 1e9 / rate, stamp, rate)
                self.publisher_by_connection[connection.id].publish(data)
                count += 1
                bar.update()
        for publisher in set(self.publisher_by_connection.values()):
            publisher.wait_for_all_acked(Duration(seconds=5))
        return count

    def _messages(self) -> Iterator[tuple[Connection, int, bytes]]:
        messages = self.reader.messages(self.connections)
        while True:
            try:
                connection, stamp, data = next(messages)
            except StopIteration:
                return
            except Exception as error:  # as in open_bag
                raise BagError(f"{self.reader.path}: reading failed ({type(error).__name__}: {error})") from error
            yield connection, stamp, bytes(data)

    def _sleep_until(self, due: float, stamp: int, rate: float) -> None:
        """Sleep until `due` on the monotonic clock, when bag time is `stamp`; publish /clock meanwhile."""
        while True:
            left = due - time.monotonic()
            if self.clock is not None:
                now = stamp - int(max(left, 0.0) * rate * 1e9)
                self.clock.publish(Clock(clock=rclpy.time.Time(nanoseconds=now).to_msg()))
            if left <= 0:
                return
            time.sleep(min(left, CLOCK_PERIOD) if self.clock is not None else left)


def _qos(connection: Connection) -> QoSProfile:
    """Return a QoS compatible with every subscriber: reliable, and transient local if the recorded publisher was.

    /tf_static is so by its definition; many tools write bags that do not say so.
    """
    offered = getattr(connection.ext, "offered_qos_profiles", [])
    latched = connection.topic.rpartition("/")[2] == "tf_static" or any(
        profile.durability == QosDurability.TRANSIENT_LOCAL for profile in offered)
    return QoSProfile(depth=QUEUE_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL if latched
                      else DurabilityPolicy.VOLATILE)


def main(args: list[str] | None = None) -> int:
    """Play the bag given on the command line until its end or SIGINT."""
    argv = sys.argv if args is None else ["bag_player", *args]
    parser = argparse.ArgumentParser(prog="bag_player", description="Plays a rosbag2 with its recorded timing.")
    parser.add_argument("bag", type=given_path, help="folder of a rosbag2, or a single .mcap or .db3 file")
    parser.add_argument("--rate", type=positive, default=1.0,
                        help="playback speed relative to the recording (default 1)")
    parser.add_argument("--clock", action="store_true", help="publish /clock, for nodes with use_sim_time")
    parser.add_argument("--loop", action="store_true", help="start again at the end; stamps jump back")
    parser.add_argument("--topics", nargs="+", metavar="TOPIC", help="play only these topics")
    parser.add_argument("--delay", type=not_negative, default=0.0, metavar="S",
                        help="wait this many seconds before the first message")
    parser.add_argument("--wait-for", nargs="+", default=[], metavar="TOPIC",
                        help="wait until these topics have a subscriber")
    parser.add_argument("--wait-ready", metavar="TOPIC", help="wait until this ~/status of vggt_slam is not LOADING")
    options = parser.parse_args(without_ros_arguments("bag_player", argv)[1:])
    with single_interrupt():
        # The handler of rclpy would shut the context down during a publish; KeyboardInterrupt ends the loop cleanly.
        if not initialize("bag_player", args=argv, signal_handler_options=SignalHandlerOptions.NO):
            return 2
        try:
            return _run(options)
        except BagError as error:
            print(f"bag_player: {error}", file=sys.stderr)
            return 1
        finally:
            rclpy.try_shutdown()
    return 0


def _run(options: argparse.Namespace) -> int:
    """Play as the options say; raises BagError."""
    with contextlib.closing(open_bag(options.bag)) as reader:
        player = BagPlayer(reader, options.topics, options.clock)
        try:
            player.check(options.wait_for)
            if options.wait_ready:
                player.wait_ready(options.wait_ready)
            player.wait_for(options.wait_for)
            time.sleep(options.delay)
            while True:
                start = time.monotonic()
                count = player.play(options.rate)
                print(f"played {count} messages of {len(set(player.publisher_by_connection.values()))} topics "
                      f"in {time.monotonic() - start:.1f} s", flush=True)
                if not options.loop:
                    return 0
        finally:
            player.destroy_node()


if __name__ == "__main__":
    sys.exit(main())
