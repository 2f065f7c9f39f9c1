"""benchmark live: what it measures with, and that it runs."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from data_folder import recorded
from paths import ROOT

pytest.importorskip("rclpy", reason="rclpy is not installed")

from vggt_ros.benchmarks.ros.enlarged_bag import enlarge
from vggt_ros.benchmarks.ros.live import LiveError, gap_p99, live
from vggt_ros.benchmarks.ros.process_memory import MemoryWatch, proportional_mb
from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.process_info import descendants
from vggt_ros.sequences.bag import BagSequence

GRANDCHILD = "import sys, time; kept = bytearray(b'x' * 60_000_000); print('ready', flush=True); time.sleep(60)"


def test_memory_of_children_counts() -> None:
    """A process whose child, started by another thread, holds 60 MB."""
    code = ("import subprocess, sys, threading\n"
            f"run = lambda: subprocess.run([sys.executable, '-c', {GRANDCHILD!r}])\n"
            "thread = threading.Thread(target=run); thread.start(); thread.join()")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        watch = MemoryWatch(process.pid)
        deadline = time.monotonic() + 20
        while watch.peak_mb < 60 and time.monotonic() < deadline:
            time.sleep(0.1)
        watch.close()
        known = descendants(process.pid)
        assert len(known) == 2 and len(watch.parts_mb) == 2
        assert 57 < watch.parts_mb[1] < 80 and watch.peak_mb == sum(watch.parts_mb)
    finally:
        for pid in descendants(process.pid)[::-1]:
            subprocess.run(["kill", "-9", str(pid)], check=False)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert proportional_mb(process.pid) == 0.0


def test_the_gap_is_the_longest_but_one_in_a_hundred() -> None:
    arrivals = np.cumsum([0] + [20_000_000] * 98 + [50_000_000, 90_000_000]).tolist()
    assert gap_p99(arrivals[::-1]) == 50.0
    assert np.isnan(gap_p99([1]))


def test_an_enlarged_bag_shows_the_same(tmp_path) -> None:
    """Stamps and truth are the same; a pixel of the large images has the ray of the place where it was."""
    small = BagSequence(recorded("ros2bag_tum_fr1_xyz/bag"))
    enlarge(small.path, tmp_path / "bag", 2, images=3)
    large = BagSequence(tmp_path / "bag")
    assert (large.camera.width, large.camera.height) == (2 * small.camera.width, 2 * small.camera.height)
    at = np.array([100.25]), np.array([51.75])
    np.testing.assert_allclose(pixel_rays(large.camera.intrinsics, *at),
                               pixel_rays(small.camera.intrinsics, *((each - 0.5) / 2 for each in at)), atol=1e-12)
    assert large.camera.distortion == small.camera.distortion
    images = list(large)
    for (stamp, image), (small_stamp, small_image) in zip(images, small):
        assert stamp == small_stamp and image.shape[:2] == (2 * small.camera.height, 2 * small.camera.width)
        blocks = image.reshape(small.camera.height, 2, small.camera.width, 2, 3).mean((1, 3))
        assert np.abs(blocks - small_image).mean() < 4
    assert len(images) == 3


def test_a_missing_bag_is_named(tmp_path) -> None:
    with pytest.raises(LiveError, match="nowhere"):
        live(tmp_path / "nowhere", [1.0])


@pytest.mark.slow
def test_the_figures_of_a_short_bag(tmp_path) -> None:
    """The node over DDS, in a process of its own: every figure is there, and most images have odometry."""
    bag = recorded("ros2bag_tum_fr1_xyz/bag")
    enlarge(bag, tmp_path / "bag", 1, images=60)
    code = ("import json, sys; from pathlib import Path; from vggt_ros.benchmarks.ros.live import live\n"
            "print(json.dumps(live(Path(sys.argv[1]), [0.5], start_ups=1)))")
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path / "bag")], capture_output=True, text=True,
                            cwd=ROOT, timeout=280)
    assert answer.returncode == 0, answer.stderr
    figures = json.loads(answer.stdout.splitlines()[-1])
    run, start = figures["runs"][0], figures["start_ups"][0]
    assert run["images with odometry"] > 0.5 and run["keyframes"] > 5 and 50 < run["memory MB"] < 1000
    assert 15 < run["map->odom gap p99 ms"] < 5000
    assert 0 < start["configured_s"] < start["active_s"] < start["ready_s"] <= start["odometry_s"] < start["tracking_s"]
