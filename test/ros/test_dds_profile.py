"""The profile of Fast DDS: the node takes less shared memory than a camera driver."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

pytest.importorskip("rclpy", reason="rclpy is not installed")

from vggt_ros.ros.common.dds_profile import TRANSPORTS, VARIABLES, for_node, without_own_profile

CONFIG = ROOT / "config"
SHARED = """
import sys, rclpy
from vggt_ros.ros.common.dds_profile import use_node_profile
sys.argv[1] == "node" and use_node_profile()
rclpy.init()
node = rclpy.create_node("profile_of_shared_memory")
lines, inside, total = open("/proc/self/smaps").read().splitlines(), False, 0
for line in lines:
    if "-" in line.split()[0] and not line.split()[0].endswith(":"):
        inside = "/dev/shm/fastrtps_" in line
    elif inside and line.startswith("Rss:"):
        total += int(line.split()[1])
print(total / 1024)
"""


def test_only_our_profile_for_cameras_is_replaced(tmp_path: Path) -> None:
    ours, other = str(CONFIG / "fastdds.xml"), str(tmp_path / "fastdds.xml")
    assert for_node({VARIABLES[0]: ours, "HOME": "/"}) == {VARIABLES[0]: str(CONFIG / "fastdds_node.xml")}
    assert for_node({VARIABLES[0]: other, VARIABLES[1]: str(tmp_path / "mine.xml")}) == {}
    assert for_node({}) == {}


def test_transports_that_are_asked_for_are_not_overruled_by_our_profiles(tmp_path: Path) -> None:
    """Fast DDS takes a profile before its variable for transports."""
    for name in ("fastdds.xml", "fastdds_node.xml"):
        profile = {VARIABLES[0]: str(CONFIG / name), VARIABLES[1]: str(tmp_path / "mine.xml")}
        assert without_own_profile({**profile, TRANSPORTS: "LARGE_DATA"}) == [VARIABLES[0]]
        assert without_own_profile(profile) == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no shared memory in /dev/shm")
@pytest.mark.skipif("fastrtps" not in os.environ.get("RMW_IMPLEMENTATION", "fastrtps"), reason="no Fast DDS")
def test_the_node_has_less_shared_memory_than_a_camera() -> None:
    environment = {**os.environ, **{variable: str(CONFIG / "fastdds.xml") for variable in VARIABLES}}
    camera, node = (float(subprocess.run([sys.executable, "-c", SHARED, kind], env=environment, check=True, text=True,
                                         capture_output=True, timeout=60).stdout) for kind in ("camera", "node"))
    assert camera > 30 and 4 < node < 12
