"""Another node of the same name; in a file of its own, whose DDS domain has no nodes of other tests."""

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
import rclpy
from bench import Bench
from rclpy.node import Node
from scenes import lap


def test_another_node_of_the_same_name_is_named_and_its_end_noticed(capfd):
    """As in another process: with a participant of its own. A node that waits to be configured names it, too."""
    bench, context = Bench(lap(40, 0.25).oracle(), tf__base_timeout=0.0).start(), rclpy.Context()

    def named():
        return any("2 nodes are named /vggt_slam:" in problem for problem in bench.node.monitor.problems())

    assert not named()
    rclpy.init(context=context)
    try:
        other = Node("vggt_slam", context=context)
        assert bench.spin(named)
        bench.node._say_what_it_waits_for()  # the request of its launch file has reached the other one
        assert "the node is unconfigured" in (said := capfd.readouterr().err)
        assert "2 nodes are named /vggt_slam:" in said
        other.destroy_node()
    finally:
        context.shutdown()
        context.destroy()
    assert bench.spin(lambda: not named())
    bench.close()
