"""A robot without torch: maps the frames of a file with the reconstructor `remote`, and says when a window is solved.

python remote_client.py FRAMES SETTINGS OUTPUT: files of numpy, JSON and numpy.
"""

import json
import sys

if __name__ == "__main__":
    sys.modules["torch"] = None  # an import fails

import numpy as np

from vggt_ros.config import Config
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.slam import Slam
from vggt_ros.windows.frame import Frame


def mapped(frames, config, reconstructor, report=lambda window: None):
    """Return the map of frames as arrays, and the counts."""
    slam = Slam(config, reconstructor)
    for frame in frames:
        window = slam.track(frame).window
        if window is not None:
            slam.step(window)
            report(window.id)
    if (window := slam.flush()) is not None:
        slam.step(window)
    solution = slam.solution
    depth = [solution.keyframes[k].depth for k in solution.ids.tolist()]
    return {"ids": solution.ids, "map_camera": solution.map_camera, "scale": solution.scale, "depth": np.array(depth),
            "keyframes": slam.counts.keyframes, "unplaced": slam.counts.unplaced, "thinned": slam.counts.thinned,
            "windows": slam.counts.windows}


if __name__ == "__main__":
    loaded = np.load(sys.argv[1])
    frames = [Frame(int(stamp), image, loaded["intrinsics"]) for stamp, image in
              zip(loaded["stamps"], loaded["images"], strict=True)]
    config = Config().replace(json.loads(sys.argv[2]))
    reconstructor, reason = create_reconstructor(config)
    print("connected", reason, flush=True)
    found = mapped(frames, config, reconstructor, lambda window: print("window", window, flush=True))
    np.savez(sys.argv[3], **found, status=json.dumps(reconstructor.status_values))
    reconstructor.close()
    print("done", flush=True)
