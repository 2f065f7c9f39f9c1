"""A ROS node for tests that acts as camera driver, subscriber and service client of `vggt_slam` over DDS."""

from __future__ import annotations

import array
import math
import time
from collections import defaultdict

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger

from vggt_ros.geometry.poses import matrix_from_quaternion, pose
from vggt_ros.ros.conversions import messages

CAMERA = "camera_optical_frame"


class Peer:
    """A node that publishes to `vggt_slam`, records its outputs and calls its services; this class spins it."""

    def __init__(self, domain=None, use_sim_time=False):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.peer = Node("peer", context=self.context,
                         parameter_overrides=[Parameter("use_sim_time", value=use_sim_time)])
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.peer)
        self.got = defaultdict(list)
        self._clients = {}

    def record(self, topic, kind, qos):
        """Append the messages of a topic to `got`, under the topic name without that of the node."""
        name = topic.removeprefix("/vggt_slam/")
        return self.peer.create_subscription(kind, topic, self.got[name].append, qos)

    def spin(self, until=lambda: False, seconds=60.0):
        """Spin until a condition holds, at most `seconds`, longer on a busy machine; return whether it holds."""
        end, calls = time.monotonic() + seconds, 0
        while not until() and (time.monotonic() < end or calls < 25 * seconds):
            self.executor.spin_once(timeout_sec=0.02)
            calls += 1
        return until()

    def request(self, kind, service, request, seconds=60.0, again=math.inf):
        """Call a service and return its response; repeat the call after `again` seconds without a response."""
        if service not in self._clients:
            self._clients[service] = self.peer.create_client(kind, service)
        client = self._clients[service]
        assert self.spin(client.service_is_ready, seconds), f"no server of {service}"
        calls, end = [], time.monotonic() + seconds
        while not any(call.done() for call in calls):
            assert time.monotonic() < end, f"{service} does not respond"
            calls.append(client.call_async(request))
            self.spin(lambda: any(call.done() for call in calls), min(again, seconds))
        return next(call.result() for call in calls if call.done())

    def call(self, name, node="/vggt_slam", wait=True):
        """Call a service of the node; without `wait`, return the future (only if the service was called before)."""
        service, request = f"{node}/{name}", Trigger.Request()
        return self.request(Trigger, service, request) if wait else self._clients[service].call_async(request)

    def state(self, node="/vggt_slam"):
        """Return the name of the lifecycle state; repeats the call, since DDS may still list a killed node."""
        return self.request(GetState, f"{node}/get_state", GetState.Request(), again=1.0).current_state.label

    def change(self, *transitions, node="/vggt_slam"):
        """Request lifecycle transitions by their names."""
        for name in transitions:
            request = ChangeState.Request(transition=Transition(id=getattr(Transition, f"TRANSITION_{name.upper()}")))
            assert self.request(ChangeState, f"{node}/change_state", request).success, name

    def set(self, node="/vggt_slam", **values):
        """Set parameters (`__` for the dot); return for each the reason of its refusal, empty if accepted."""
        parameters = [Parameter(name.replace("__", "."), value=value).to_parameter_msg()
                      for name, value in values.items()]
        answer = self.request(SetParameters, f"{node}/set_parameters", SetParameters.Request(parameters=parameters))
        return [result.reason if not result.successful else "" for result in answer.results]

    def parameters(self, *names, node="/vggt_slam"):
        answer = self.request(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=list(names)))
        return [parameter_value_to_python(value) for value in answer.values]

    def camera(self, *args, **details):
        return CameraDriver(self, *args, **details)

    def close(self):
        self.executor.shutdown()
        self.peer.destroy_node()
        rclpy.shutdown(context=self.context)


class CameraDriver:
    """Publishes frames forward and backward repeatedly, stamped with the current time, while `on` is set.

    `sent` maps stamps to frame numbers.
    """

    def __init__(self, peer, frames, image="/camera/image_raw", info="/camera/camera_info", *, compressed=False,
                 rate=10.0, reliability=ReliabilityPolicy.RELIABLE, frame_id=CAMERA):
        qos = QoSProfile(depth=5, reliability=reliability)
        self.frames, self.compressed, self.frame_id = frames, compressed, frame_id
        kind, topic = (CompressedImage, f"{image}/compressed") if compressed else (Image, image)
        self.images = peer.peer.create_publisher(kind, topic, qos)
        self.infos = peer.peer.create_publisher(CameraInfo, info, qos)
        self.sent, self.on = {}, False
        self._turn = 0
        self._timer = peer.peer.create_timer(1.0 / rate, self._tick)

    @property
    def connected(self):
        return bool(self.images.get_subscription_count() and self.infos.get_subscription_count())

    def positions(self, stamped):
        """Return the frame numbers (n,) of messages with poses, and their positions (n, 3)."""
        found = [(self.sent[stamp(message)], matrix(message.pose if isinstance(message, PoseStamped)
                                                    else message.pose.pose)) for message in stamped]
        return [number for number, _ in found], np.array([there[:3, 3] for _, there in found])

    def _tick(self):
        if not self.on:
            return
        last = len(self.frames) - 1
        number = last - abs(self._turn % (2 * last) - last)
        self._turn += 1
        frame, stamp = self.frames[number], time.time_ns()
        height, width = frame.image.shape[:2]
        head = messages.header(stamp, self.frame_id)
        self.infos.publish(messages.camera_info(frame.intrinsics, (width, height), head))
        if self.compressed:
            data = cv2.imencode(".jpg", frame.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            self.images.publish(CompressedImage(header=head, format="jpeg", data=array.array("B", data)))
        else:
            self.images.publish(Image(header=head, height=height, width=width, encoding="rgb8", step=3 * width,
                                      data=array.array("B", frame.image.tobytes())))
        self.sent[stamp] = number


def matrix(message):
    """Return the 4x4 matrix of a Pose or a Transform."""
    position = message.position if hasattr(message, "position") else message.translation
    q = message.orientation if hasattr(message, "orientation") else message.rotation
    return pose(matrix_from_quaternion(np.array([q.x, q.y, q.z, q.w])), np.array([position.x, position.y, position.z]))


def stamp(message):
    return messages.nanoseconds(message.header.stamp)
