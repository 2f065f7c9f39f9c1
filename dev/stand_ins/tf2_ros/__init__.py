"""Stand-in of tf2_ros for development machines without ROS: just what vggt_ros calls, tested against the same contract.

On a ROS machine the real package is imported; this one is put on the path by `dev/setup` only.
"""

from tf2_ros.broadcasters import StaticTransformBroadcaster, TransformBroadcaster
from tf2_ros.buffer import Buffer
from tf2_ros.exceptions import (
    ConnectivityException,
    ExtrapolationException,
    InvalidArgumentException,
    LookupException,
    TransformException,
)
from tf2_ros.listener import TransformListener

__all__ = ["Buffer", "ConnectivityException", "ExtrapolationException", "InvalidArgumentException", "LookupException",
           "StaticTransformBroadcaster", "TransformBroadcaster", "TransformException", "TransformListener"]
