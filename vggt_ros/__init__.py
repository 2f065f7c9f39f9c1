"""vggt_ros: dense monocular SLAM for ROS 2 by feed-forward multi-view reconstruction and a GTSAM pose graph.

The names below are the Python API; they are imported when they are first used, so that `import vggt_ros` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vggt_ros.config import Config
    from vggt_ros.reconstruction import create_reconstructor
    from vggt_ros.replay.frames import frames
    from vggt_ros.sequences.opening import open_sequence
    from vggt_ros.slam import Slam

__version__ = "0.1.0"
__all__ = ["Config", "Slam", "create_reconstructor", "frames", "open_sequence"]
_HOME = {
    "Config": "vggt_ros.config",
    "Slam": "vggt_ros.slam",
    "create_reconstructor": "vggt_ros.reconstruction",
    "frames": "vggt_ros.replay.frames",
    "open_sequence": "vggt_ros.sequences.opening",
}


def __getattr__(name: str) -> object:
    """Import a name of the API; raises AttributeError for others (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Return the names of the API too."""
    return sorted({*globals(), *__all__})
