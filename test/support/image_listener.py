"""A user of images, odometry and TF in a process of its own, who looks a transform up at the stamp of each image.

Usage: image_listener.py IMAGE_TOPIC ODOMETRY_TOPIC TARGET SOURCE COUNT. Prints for COUNT images, from the first one on
that has a transform, after how many seconds the transform and the odometry of that stamp were there, as JSON:
[[stamp, seconds, seconds], ...], null for what did not come within PATIENCE.
"""

import json
import sys
import time
from collections import deque

import rclpy
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import Image
from tf2_ros import Buffer, TransformException, TransformListener

from vggt_ros.ros.messages import nanoseconds

PATIENCE = 5.0


def main(images, odometry, target, source, count):
    rclpy.init()
    node = Node("image_listener")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    buffer = Buffer(node=node)
    listener = TransformListener(buffer, node)
    came, located, heard = {}, {}, {}
    waiting = deque()

    def note(when, queue=None):
        def take(message):
            stamp = nanoseconds(message.header.stamp)
            when.setdefault(stamp, time.monotonic())
            if queue is not None:
                queue.append(stamp)
        return take

    node.create_subscription(Image, images, note(came, waiting),
                             QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
    node.create_subscription(Odometry, odometry, note(heard), 10)
    done = []
    while len(done) < count or any(stamp not in heard and came[stamp] > time.monotonic() - PATIENCE for stamp in done):
        executor.spin_once(timeout_sec=0.01)
        if not done:  # no transform so far: only the newest image may have one
            while len(waiting) > 1:
                waiting.popleft()
        while waiting and len(done) < count:  # in order: the transforms of later images come later
            try:
                buffer.lookup_transform(target, source, Time(nanoseconds=waiting[0]))
                located[waiting[0]] = time.monotonic()
            except TransformException:
                if not done or came[waiting[0]] > time.monotonic() - PATIENCE:
                    break
            done.append(waiting.popleft())
    listener.unregister()

    def seconds(when, stamp):
        return when[stamp] - came[stamp] if stamp in when else None

    print(json.dumps([[stamp, seconds(located, stamp), seconds(heard, stamp)] for stamp in done]))


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]))
