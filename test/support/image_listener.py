"""A subscriber of images, odometry and TF in a separate process, which looks up a transform at each image stamp.

Usage: image_listener.py IMAGE_TOPIC ODOMETRY_TOPIC TARGET SOURCE COUNT. For COUNT images, starting with the first one
that has a transform, it prints the delay from the image to the transform and to the odometry of that stamp, as JSON:
[[stamp, seconds, seconds], ...], with null for what did not arrive within TIMEOUT.
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

from vggt_ros.ros.conversions.messages import nanoseconds

TIMEOUT = 5.0


def main(images, odometry, target, source, count):
    rclpy.init()
    node = Node("image_listener")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    buffer = Buffer(node=node)
    listener = TransformListener(buffer, node)
    image_times, transform_times, odometry_times = {}, {}, {}
    waiting = deque()

    def record(times, queue=None):
        def take(message):
            stamp = nanoseconds(message.header.stamp)
            times.setdefault(stamp, time.monotonic())
            if queue is not None:
                queue.append(stamp)
        return take

    node.create_subscription(Image, images, record(image_times, waiting),
                             QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
    node.create_subscription(Odometry, odometry, record(odometry_times), 10)
    done = []
    while len(done) < count or any(stamp not in odometry_times and image_times[stamp] > time.monotonic() - TIMEOUT
                                   for stamp in done):
        executor.spin_once(timeout_sec=0.01)
        if not done:  # no transform yet: only the newest image can have one
            while len(waiting) > 1:
                waiting.popleft()
        while waiting and len(done) < count:  # in order: transforms of later images arrive later
            try:
                buffer.lookup_transform(target, source, Time(nanoseconds=waiting[0]))
                transform_times[waiting[0]] = time.monotonic()
            except TransformException:
                if not done or image_times[waiting[0]] > time.monotonic() - TIMEOUT:
                    break
            done.append(waiting.popleft())
    listener.unregister()

    def seconds(times, stamp):
        return times[stamp] - image_times[stamp] if stamp in times else None

    print(json.dumps([[stamp, seconds(transform_times, stamp), seconds(odometry_times, stamp)] for stamp in done]))


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]))
