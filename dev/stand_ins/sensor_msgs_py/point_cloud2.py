"""Conversion between PointCloud2 and structured arrays, with the signatures of sensor_msgs_py.point_cloud2."""

from __future__ import annotations

import array
import sys
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

_TYPES = {PointField.INT8: np.int8, PointField.UINT8: np.uint8, PointField.INT16: np.int16,
          PointField.UINT16: np.uint16, PointField.INT32: np.int32, PointField.UINT32: np.uint32,
          PointField.FLOAT32: np.float32, PointField.FLOAT64: np.float64}


def dtype_from_fields(fields: Iterable[PointField], point_step: int | None = None) -> np.dtype:
    """Return the structured dtype of `fields`; only fields of count 1 are supported."""
    fields = list(fields)
    if any(field.count != 1 for field in fields):
        raise NotImplementedError("fields with a count other than 1")
    layout = {"names": [field.name for field in fields], "formats": [_TYPES[field.datatype] for field in fields],
              "offsets": [field.offset for field in fields]}
    return np.dtype(layout if point_step is None else {**layout, "itemsize": point_step})


def create_cloud(header: Header, fields: Iterable[PointField], points: NDArray, point_step: int | None = None
                 ) -> PointCloud2:
    """Return the cloud for a structured array `points` (n,) whose dtype matches `fields`."""
    fields = list(fields)
    if points.ndim != 1:
        raise NotImplementedError("organized clouds")
    assert points.dtype == dtype_from_fields(fields, point_step), "PointFields and dtype of the points do not match"
    # rosidl checks every element of a list or ndarray in Python, 0.3 s for 200k points; an array is only copied.
    data = array.array("B")
    data.frombytes(memoryview(np.ascontiguousarray(points)).cast("B"))
    cloud = PointCloud2(header=header, height=1, width=len(points), is_dense=False,
                        is_bigendian=sys.byteorder != "little", fields=fields, point_step=points.dtype.itemsize,
                        row_step=points.dtype.itemsize * len(points))
    cloud.data = data
    return cloud


def read_points(cloud: PointCloud2, field_names: Iterable[str] | None = None, skip_nans: bool = False) -> NDArray:
    """Return the points of `cloud` as a structured array (n,), with all fields or those in `field_names`."""
    points = np.ndarray(shape=(cloud.width * cloud.height,), buffer=cloud.data,
                        dtype=dtype_from_fields(cloud.fields, cloud.point_step))
    if bool(sys.byteorder != "little") != bool(cloud.is_bigendian):
        points = points.byteswap()
    if field_names is not None:
        points = points[list(field_names)]
    if skip_nans:
        points = points[~np.any([np.isnan(points[name]) for name in points.dtype.names], axis=0)]
    return points
