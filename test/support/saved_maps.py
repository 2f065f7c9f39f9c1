"""A small map that tests save."""

from functools import cache

import numpy as np
from scenes import lap, run

from vggt_ros.config import Config
from vggt_ros.storage.map_folder import save_map
from vggt_ros.synthetic import OracleNoise
from vggt_ros.windows.point_cloud import PointCloud

NO_POINTS = PointCloud.empty()
UPRIGHT = np.array([[0.0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 3], [0, 0, 0, 1]])


@cache
def mapped():
    return run(lap(), Config(), lap().oracle(noise=OracleNoise(rotation=0.001, translation=0.001, depth=0.01))).slam


@cache
def record():
    return mapped().record(UPRIGHT)


def save(folder, saved=None):
    saved = saved or record()
    save_map(folder, saved, NO_POINTS, np.tile(np.eye(4), (len(saved), 1, 1)), Config())
