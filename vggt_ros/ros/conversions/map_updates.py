"""Messages of `~/cloud_map_updates`: the points of some keyframes, which replace all received of these before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from vggt_ros.ros.conversions.messages import point_cloud
from vggt_ros.windows.point_cloud import PointCloud

KEYFRAME_FIELD = "keyframe"
"""Field with the id of the keyframe of a point, uint32."""


def update_message(parts: Mapping[int, PointCloud], head: Header) -> PointCloud2:
    """Return sensor_msgs/PointCloud2 with the fields of `~/cloud_map` and `keyframe`, of some keyframes.

    Args:
        parts: keyframe to its points. One without points has a single row, whose x y z are NaN.
        head: frame of the points, and stamp.

    """
    rows = {keyframe: cloud if len(cloud) else _NOTHING for keyframe, cloud in parts.items()}
    clouds = list(rows.values())
    whole = point_cloud(PointCloud.concatenate(clouds), head)
    step = whole.point_step
    table = np.empty((whole.width, step + 4), np.uint8)
    table[:, :step] = np.frombuffer(whole.data, np.uint8).reshape(-1, step)
    ids = np.repeat(np.array(list(rows), "<u4"), [len(cloud) for cloud in clouds])
    table[:, step:] = ids[:, None].view(np.uint8)
    message = PointCloud2(
        header=head, height=1, width=whole.width, is_bigendian=False, is_dense=whole.is_dense, point_step=step + 4,
        row_step=(step + 4) * whole.width,
        fields=[*whole.fields, PointField(name=KEYFRAME_FIELD, offset=step, datatype=PointField.UINT32, count=1)])
    message.data.frombytes(table.tobytes())
    return message


_NOTHING = PointCloud(np.full((1, 3), np.nan, np.float32), np.zeros((1, 3), np.uint8), np.zeros(1, np.float32),
                      np.zeros((1, 3), np.float32))
"""The row of a keyframe without points."""
