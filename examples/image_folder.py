#!/usr/bin/env python3
"""SLAM on a folder of images (or a video), without ROS. Usage: image_folder.py FOLDER [OUTPUT.ply]."""

import sys
from pathlib import Path

from vggt_ros import Config, Slam, create_reconstructor, frames, open_sequence
from vggt_ros.storage.files import write_ply

config = Config()
reconstructor, why = create_reconstructor(config)
sequence = open_sequence(sys.argv[1])
slam = Slam(config, reconstructor)
for frame in frames(sequence, reconstructor, config):
    window = slam.track(frame).window  # every image gets a pose; now and then keyframes complete a window
    if window is not None:
        update = slam.step(window)
        print(f"{frame.stamp * 1e-9:.2f} s: {len(slam.solution)} keyframes {update.refused}")
if (last := slam.flush()) is not None:
    slam.step(last)
stamps, map_camera = slam.solution.trajectory(slam.solution.largest_submap)
print(f"{why}: {len(stamps)} of {len(slam.solution)} keyframes in the largest submap")
write_ply(Path(sys.argv[2] if len(sys.argv) > 2 else "map.ply"), slam.map_cloud())
