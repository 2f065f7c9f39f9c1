"""The receiving end of `~/cloud_map_updates`: the points of the map, keyframe by keyframe."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import PointCloud2

from vggt_ros.ros.conversions.map_updates import KEYFRAME_FIELD
from vggt_ros.ros.tools.recorder import read_cloud
from vggt_ros.windows.point_cloud import PointCloud


class MapReceiver:
    """The map, put together from updates.

    Attributes:
        parts: keyframe to its points, in the frame of the messages.

    """

    def __init__(self) -> None:
        """Begin with an empty map; the node sends all of it to a new subscriber."""
        self.parts: dict[int, PointCloud] = {}

    def __len__(self) -> int:
        """Return the number of points."""
        return sum(len(cloud) for cloud in self.parts.values())

    def receive(self, message: PointCloud2) -> dict[int, PointCloud]:
        """Apply an update; return what it has, with an empty cloud for keyframes without points."""
        update = read_update(message)
        self.parts.update(update)
        for keyframe in [keyframe for keyframe, cloud in update.items() if not len(cloud)]:
            del self.parts[keyframe]
        return update


def read_update(message: PointCloud2) -> dict[int, PointCloud]:
    """Return keyframe to its points, of an update of the map; an empty cloud for keyframes without points."""
    offset = next(field.offset for field in message.fields if field.name == KEYFRAME_FIELD)
    table = np.frombuffer(message.data, np.uint8).reshape(-1, message.point_step)
    ids = np.ascontiguousarray(table[:, offset:offset + 4]).view("<u4")[:, 0]
    cloud, parts = read_cloud(message), {}
    known = np.isfinite(cloud.points[:, 0])
    for keyframe in np.unique(ids).tolist():
        parts[keyframe] = cloud[(ids == keyframe) & known]
    return parts
