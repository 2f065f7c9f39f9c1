"""A `reconstruction_server` whose reconstructor is the oracle of the room: python oracle_server.py [DIES_IN].

It prints the number of every window that it solves to stderr, and kills itself in the middle of its window DIES_IN.
"""

import os
import signal
import sys

from vggt_ros.ros.remote import server as reconstruction_server
from vggt_ros.synthetic import SceneReconstructor, laps, room


class Announced(SceneReconstructor):
    """Says which windows it solves."""

    def reconstruct(self, window):
        print("solves window", window.id, file=sys.stderr, flush=True)
        if [str(window.id)] == sys.argv[1:]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reconstruct(window)


if __name__ == "__main__":
    stamps = [1_700_000_000_123_456_789 + 100_000_000 * i for i in range(104)]  # as scenes.lap
    oracle = Announced(room(), stamps, laps(104, laps=0.6))
    sys.exit(reconstruction_server.main([], factory=lambda config, progress: (oracle, "the oracle, for a test")))
