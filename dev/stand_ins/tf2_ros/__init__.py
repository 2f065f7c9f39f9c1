"""Replacement of tf2_ros for development machines without ROS, limited to what vggt_ros uses.

The same tests run with the real package. On a ROS machine the real package is imported; only `dev/setup` puts this one
on the path.
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
