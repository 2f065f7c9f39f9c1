"""A `reconstruction_server` whose reconstructor is the oracle of the room, as a process: python oracle_server.py."""

import sys

from vggt_ros.ros import reconstruction_server
from vggt_ros.synthetic import SceneReconstructor, laps, room

if __name__ == "__main__":
    stamps = [1_700_000_000_123_456_789 + 100_000_000 * i for i in range(104)]  # as scenes.lap
    oracle = SceneReconstructor(room(), stamps, laps(104, laps=0.6))
    sys.exit(reconstruction_server.main(factory=lambda config, progress: (oracle, "the oracle, for a test")))
