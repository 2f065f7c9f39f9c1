"""Rendered rooms with exact poses and depth: the truth that tests and the demo are measured against."""

from vggt_ros.synthetic.oracle import OracleNoise, SceneReconstructor
from vggt_ros.synthetic.paths import drive, laps, look_at, orbit, turn
from vggt_ros.synthetic.rooms import corridor, room
from vggt_ros.synthetic.scene import Scene, pinhole
from vggt_ros.synthetic.sequence import RenderedSequence, demo_sequence

__all__ = ["OracleNoise", "RenderedSequence", "Scene", "SceneReconstructor", "corridor", "demo_sequence", "drive",
           "laps", "look_at", "orbit", "pinhole", "room", "turn"]
