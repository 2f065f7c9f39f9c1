"""The types of vggt_ros_msgs; where that package is not built, the node runs without them."""

from __future__ import annotations

from nav_msgs.srv import GetMap
from std_srvs.srv import Trigger

try:
    from vggt_ros_msgs.msg import SlamStatus
    from vggt_ros_msgs.srv import LoadMap, Localize, SaveMap, SetMode
    MISSING = ""
except ImportError as error:
    SlamStatus = LoadMap = Localize = SaveMap = SetMode = None
    MISSING = str(error)
"""Why vggt_ros_msgs cannot be imported; empty if it can."""

SERVICES: dict[str, type] = {**dict.fromkeys(("reset", "save_map", "load_map", "pause", "resume", "reset_odometry"),
                                             Trigger), "get_map": GetMap}
"""Name to type of the services that the node has everywhere."""
TYPED_SERVICES: dict[str, type] = {} if MISSING else {
    "save_named_map": SaveMap, "load_named_map": LoadMap, "set_mode": SetMode, "localize": Localize}
"""Name to type of the services of vggt_ros_msgs, none where it is not built."""
