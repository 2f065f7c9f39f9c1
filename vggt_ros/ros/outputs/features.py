"""`~/features`: the tracked corners in their image, drawn while somebody subscribes."""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from vggt_ros.ros.conversions import messages
from vggt_ros.slam import Slam
from vggt_ros.view.tracked_corners import draw_corners
from vggt_ros.windows.frame import Frame


class FeatureOutput:
    """Publisher of the picture.

    Attributes:
        drawn: number of pictures; without a subscriber it does not rise.

    """

    def __init__(self, node: LifecycleNode, slam: Slam) -> None:
        """Create the publisher; `close` destroys it."""
        self._node, self._slam = node, slam
        self._publisher = node.create_lifecycle_publisher(Image, "~/features", 2)
        self.drawn = 0

    def close(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_publisher(self._publisher)

    def publish(self, frame: Frame, camera_frame: str) -> None:
        """Publish the corners of the image that was just tracked; `camera_frame` is its TF frame."""
        if not self._publisher.get_subscription_count():
            return
        tracks, landmark, from_depth = self._slam.tracked_corners()
        picture = draw_corners(frame.rgb, tracks.pixels, tracks.motions[:, 0], landmark, from_depth)
        self._publisher.publish(messages.color_image(picture, messages.header(frame.stamp, camera_frame)))
        self.drawn += 1
