"""The sequences of the benchmarks, and the folder of recorded ones."""

from __future__ import annotations

import os
from pathlib import Path

from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import Sequence
from vggt_ros.synthetic import demo_sequence

REPOSITORY = Path(__file__).parents[2]
SEQUENCES = ("demo_room", "tum_fr1_xyz", "euroc_mh01_start", "kitti07_first160", "hololens_dvmvs_000")


def data_folder() -> Path:
    """Return the folder of recorded sequences: VGGT_ROS_DATA, else `../shared/data` next to the repository."""
    return Path(os.environ.get("VGGT_ROS_DATA") or REPOSITORY.parent / "shared" / "data")


def load(name: str) -> Sequence:
    """Return the demo, or the recorded sequence of that name; raises SequenceError if it is not there."""
    return demo_sequence() if name == "demo_room" else open_sequence(data_folder() / name)
