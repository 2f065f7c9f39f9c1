"""Start of the node's process: it imports what the reconstructor needs, too, and forks that process before the rest."""

from __future__ import annotations

import os
import signal
import sys

from vggt_ros.child_process import prepare_spare
from vggt_ros.heap import single_heap


def main() -> int:
    """Run the node until it is interrupted; see `slam_node`."""
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(0))  # nothing has begun; `spin` takes it over
    single_heap()  # before NumPy starts threads: each of them would get a heap of its own, 30 MB in the end
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `single_threaded_blas`, which is too late to start none
    if not {"-h", "--help"} & set(sys.argv[1:]):
        prepare_spare(2, ["vggt_ros.reconstruction.process_worker", "vggt_ros.reconstruction",
                          "vggt_ros.features.description"])
    from vggt_ros.ros.node.slam_node import main as run
    return run()


if __name__ == "__main__":
    sys.exit(main())
