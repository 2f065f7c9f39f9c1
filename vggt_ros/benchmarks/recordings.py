"""The sequences of the benchmarks, and the folder of recorded ones."""

from __future__ import annotations

import os
from pathlib import Path

from vggt_ros.benchmarks.disturbances import disturbed
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import Sequence
from vggt_ros.synthetic.sequence import RENDERED

REPOSITORY = Path(__file__).parents[2]
SEQUENCES = ("demo_room", "cabinet", "tum_fr1_xyz", "euroc_mh01_start", "kitti07_first160", "hololens_dvmvs_000",
             "kitti05_bends", "euroc_mh05_a", "tum_fr1_rpy_a", "tum_fr3_office_1hz", "euroc_v101_still_imu",
             "phone_corridor", "phone_staircase", "dance_people", "corridor_places", "tum_fr1_xyz:flicker",
             "tum_fr1_xyz:own_body", "tum_fr1_xyz:passer_by", "tum_fr3_office_1hz:uncalibrated",
             "hololens_dvmvs_000:uncalibrated")
"""Recorded and rendered sequences; after a colon, what makes one harder (`disturbances.py`)."""


def data_folder() -> Path:
    """Return the folder of recorded sequences: VGGT_ROS_DATA, else `../shared/data` next to the repository."""
    return Path(os.environ.get("VGGT_ROS_DATA") or REPOSITORY.parent / "shared" / "data")


def load(name: str) -> Sequence:
    """Return a rendered or a recorded sequence by its name, with what makes it harder; raises SequenceError."""
    base, *changes = name.split(":")
    return disturbed(RENDERED[base]() if base in RENDERED else open_sequence(data_folder() / base), changes)
