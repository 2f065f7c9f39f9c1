"""Rendered scenes with exact poses and depth, as ground truth for tests, benchmarks and the demo.

It takes the size and seed of a room, a camera path, and how large the errors of simulated sensors are. It returns
rendered sequences, windows as a reconstructor would return them, odometry and IMU samples, all with known truth.
"""

from vggt_ros.synthetic.oracle import OracleNoise, SceneReconstructor
from vggt_ros.synthetic.paths import drive, laps, look_at, orbit, turn
from vggt_ros.synthetic.rooms import corridor, room
from vggt_ros.synthetic.scene import Scene, pinhole
from vggt_ros.synthetic.sequence import RenderedSequence, demo_sequence

__all__ = ["OracleNoise", "RenderedSequence", "Scene", "SceneReconstructor", "corridor", "demo_sequence", "drive",
           "laps", "look_at", "orbit", "pinhole", "room", "turn"]
