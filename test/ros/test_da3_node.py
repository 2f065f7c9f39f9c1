"""Depth Anything 3 in the node, over DDS, in a process of its own, with generated weights."""

from functools import partial

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
pytest.importorskip("depth_anything_3", reason="depth-anything-3 is not installed")
pytest.importorskip("omegaconf", reason="omegaconf is not installed")
pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")

from bench import OUTPUTS, Bench, stamp
from scenes import lap
from tiny_da3 import tiny_state, write_da3

from vggt_ros.reconstruction import create_reconstructor

WIDTH, HEIGHT = 140, 112
"""Size of images of 320x240 with `da3.width` 140: 105 is rounded up to a multiple of 14."""


def test_windows_in_the_node(tmp_path, capfd):
    """From loading to messages. With generated weights the output is not geometry: the first window is mapped.

    Tracking is lost in such a map, so the status says why no poses are given to the network.
    """
    write_da3(tmp_path, tiny_state(WIDTH, HEIGHT))
    bench = Bench(partial(create_reconstructor, separate_process=True), OUTPUTS, tf__base_timeout=0.0,
                  tf__assume_level=True, reconstructor="da3", da3__weights=str(tmp_path), da3__device="cpu",
                  da3__width=WIDTH, da3__known_poses="tracked", windows__size=4, windows__overlap=2)
    bench.read_log = lambda: capfd.readouterr().err
    try:
        bench.start(100.0)
        assert bench.spin(lambda: bench.logged("da3, as configured"))
        bench.info(lap().frames[0])
        bench.play(lap().frames[:28])
        status = bench.status_now()
        assert status["model"].startswith(f"{tmp_path} (custom, depth-anything-3 ")
        assert status["device"].startswith("CPU") and status["type"] == "float32"
        assert float(status["window seconds"]) > 0 and float(status["window peak_memory_mb"]) > 50
        assert status["known poses"].startswith("given in ")
        assert bench.node.slam.counts.windows > 0 and bench.node.monitor.error == ""
        assert [stamp(message) for message in bench.got["odom"]] == [frame.stamp for frame in lap().frames[:28]]
        assert {(image.width, image.height) for image in bench.got["depth/image"]} == {(WIDTH, HEIGHT)}
        assert bench.got["cloud"][-1].width > 1000
    finally:
        bench.close()
