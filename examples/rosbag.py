#!/usr/bin/env python3
"""SLAM on a rosbag2, without ROS; writes a trajectory in TUM's format. Usage: rosbag.py BAG IMAGE_TOPIC OUTPUT.txt.

`run` is what `replay` calls: the same pipeline as in the node, and figures against ground truth where the bag has it.
"""

import sys
from pathlib import Path

from vggt_ros import Config, open_sequence
from vggt_ros.replay.run import run
from vggt_ros.storage.files import write_trajectory

sequence = open_sequence(sys.argv[1], image_topic=sys.argv[2])
for line in sequence.assumptions:
    print(f"assumed: {line}")
result = run(sequence, Config().replace({"seed": 0}), progress=True)
write_trajectory(Path(sys.argv[3]), *result.frame_trajectory(result.slam.solution.largest_submap))
if (accuracy := result.accuracy()) is not None:
    print(f"ATE RMSE {accuracy.ate_rmse:.4f} m over {accuracy.path:.1f} m")
