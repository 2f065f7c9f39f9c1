"""The status with types, vggt_ros_msgs/SlamStatus: the same values as those of the DiagnosticStatus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from std_msgs.msg import Header

from vggt_ros.ros.conversions.interfaces import SlamStatus

_UNUSED = ("early", "waiting", "refused", "late", "failed")
"""Images that arrived, but were not used: why, as in the keys `images ...`."""
_COUNTS = {"images_received": "images received", "images_missed": "images missed", "images_tracked": "tracked",
           "images_lost": "lost", "relocalizations": "relocalized", "keyframes": "keyframes placed",
           "submaps": "submaps", "loops": "loops", "loops_refused": "loops_refused", "windows": "windows",
           "windows_refused": "refused", "windows_lost": "windows lost", "windows_waiting": "windows waiting",
           "resets": "resets", "interruptions": "interruptions"}
_TEXTS = {"mode": "mode", "scale_source": "scale by", "reconstructor": "reconstructor", "calibration": "calibration",
          "image_topic": "image topic"}
_NUMBERS = {"scale_sigma": "scale sigma", "last_window_seconds": "last window s", "decode_milliseconds": "decode ms",
            "track_milliseconds": "track ms"}


def typed_status(head: Header, active: bool, paused: bool, level: bytes, message: str, values: Mapping[str, Any],
                 problems: list[str]) -> Any:
    """Return vggt_ros_msgs/SlamStatus.

    Args:
        head: time of the report and frame of the map.
        active: whether the lifecycle state is active.
        paused: whether images are left out.
        level: of diagnostic_msgs/DiagnosticStatus.
        message: how well it goes, in words.
        values: key to value, as `StatusMonitor.values` returns them.
        problems: what may be wrong around the node.

    """
    status = SlamStatus(header=head, active=active, paused=paused, level=level[0], message=message, problems=problems)
    status.state = getattr(SlamStatus, values["state"])
    status.scale_state = getattr(SlamStatus, f"SCALE_{values['scale']}")
    status.degraded_by = "" if values["degraded by"] == "nothing" else values["degraded by"]
    problem = values["reconstructor problem"]
    status.reconstructor_problem = "" if problem == "none" else problem
    status.images_unused = sum(int(values[f"images {name}"]) for name in _UNUSED)
    for name, key in _COUNTS.items():
        setattr(status, name, int(values[key]))
    for name, key in _TEXTS.items():
        setattr(status, name, str(values[key]))
    for name, key in _NUMBERS.items():
        setattr(status, name, float(values.get(key, math.nan)))
    status.latency_milliseconds = float(values.get("latency busy median ms", values.get("latency idle median ms",
                                                                                        math.nan)))
    return status
