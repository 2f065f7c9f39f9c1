"""Test bench: the node in this process on real DDS, fed image by image, with its outputs recorded."""

from __future__ import annotations

import array
import threading

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from peer import CAMERA, Peer, matrix, stamp
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from vggt_ros.ros.conversions import messages
from vggt_ros.ros.node.slam_node import SlamNode

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
OUTPUTS = {"odom": (Odometry, 100), "pose": (PoseWithCovarianceStamped, 100), "path": (Path, LATCHED),
           "cloud": (PointCloud2, 10), "cloud_map": (PointCloud2, LATCHED), "depth/image": (Image, 100),
           "depth/camera_info": (CameraInfo, 100), "markers": (MarkerArray, LATCHED),
           "status": (DiagnosticStatus, LATCHED)}
__all__ = ["CAMERA", "LATCHED", "OUTPUTS", "Bench", "GatedReconstructor", "matrix", "stamp"]


class GatedReconstructor:
    """A reconstructor that blocks in `reconstruct` while `open` is not set; `inside` is set when it is called."""

    def __init__(self, inner):
        self.inner, self.name = inner, inner.name
        self.open, self.inside = threading.Event(), threading.Event()
        self.open.set()
        self.image_size = inner.image_size

    def reconstruct(self, window):
        self.inside.set()
        assert self.open.wait(60)
        return self.inner.reconstruct(window)


class Bench(Peer):
    """A node and its peer on one executor."""

    def __init__(self, reconstructor, /, outputs=OUTPUTS, **parameters):
        """`reconstructor` is an instance, or a factory as for `SlamNode`."""
        super().__init__()
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in parameters.items()]
        create = reconstructor if callable(reconstructor) else lambda *_: (reconstructor, "the oracle, for a test")
        self.node = SlamNode(reconstructor_factory=create, context=self.context, parameter_overrides=overrides)
        self.executor.add_node(self.node)
        self.log, self.read_log = "", lambda: ""
        self.images = self.peer.create_publisher(Image, "image", 10)
        self.infos = self.peer.create_publisher(CameraInfo, "camera_info", 10)
        for name in outputs:
            self.record(f"/vggt_slam/{name}", *OUTPUTS[name])
        self.record("/tf", TFMessage, 100)
        self.record("/tf_static", TFMessage, QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        self.record("/diagnostics", DiagnosticArray, 10)

    def start(self, seconds=60.0):
        """Configure, wait at most `seconds` for the reconstructor, and activate."""
        assert self.node.trigger_configure().name == "SUCCESS"
        assert self.spin(lambda: self.node.reconstructor.state == "READY", seconds), self.node.reconstructor.detail
        assert self.node.trigger_activate().name == "SUCCESS"
        assert self.spin(lambda: self.images.get_subscription_count() and self.infos.get_subscription_count())
        self.spin(seconds=0.2)
        return self

    def info(self, frame, **changes):
        message = messages.camera_info(frame.intrinsics, frame.image.shape[1::-1],
                                       messages.header(frame.stamp, CAMERA))
        for name, value in changes.items():
            setattr(message, name, value)
        self.infos.publish(message)
        self.spin(seconds=0.1)

    def image(self, frame, wait=True, **changes):
        """Publish an image; by default wait until the node has received it."""
        height, width = frame.image.shape[:2]
        message = Image(header=messages.header(frame.stamp, CAMERA), height=height, width=width, encoding="rgb8",
                        step=3 * width, data=array.array("B", frame.image.tobytes()))
        for name, value in changes.items():
            setattr(message, name, value)
        before = self.counts["received"]
        self.images.publish(message)
        if wait:
            assert self.spin(lambda: self.counts["received"] > before)

    def play(self, frames, solve=True):
        """Publish frames one by one; wait for the worker before each, so that every run is the same."""
        for frame in frames:
            if solve:
                assert self.spin(lambda: self.node.worker.idle)
            self.image(frame)
        self.settle()

    def settle(self, seconds=0.7):
        assert self.spin(lambda: self.node.worker.idle)
        self.spin(seconds=seconds)

    @property
    def counts(self):
        return self.node.source.counts

    def status(self):
        """Return the values of the newest status, which may be a second old."""
        return {item.key: item.value for item in self.got["status"][-1].values}

    def status_message(self):
        """Return the message of the newest status, empty before the first."""
        return self.got["status"][-1].message if self.got["status"] else ""

    def status_now(self):
        """Wait for the next status and return its values."""
        before = len(self.got["status"])
        assert self.spin(lambda: len(self.got["status"]) > before)
        return self.status()

    def logged(self, *words):
        """Return whether a line of the log has all words; read from stderr, since equally named nodes share /rosout."""
        self.log += self.read_log()
        return any(all(word in line for word in words) for line in self.log.splitlines())

    def transforms(self, parent, child):
        """Return stamps and 4x4 transforms on /tf between two frames."""
        found = [t for message in self.got["/tf"] for t in message.transforms
                 if (t.header.frame_id, t.child_frame_id) == (parent, child)]
        return [messages.nanoseconds(t.header.stamp) for t in found], [matrix(t.transform) for t in found]

    def close(self):
        self.node.close()
        self.executor.remove_node(self.node)
        self.node.destroy_node()
        super().close()
