"""Requests that the lifecycle node of rclpy does not survive."""

import os
import threading
from functools import cache

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from bench import Bench, GatedReconstructor
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from scenes import lap
from std_srvs.srv import Trigger

SMALL = {"tf__base_timeout": 0.0, "tf__assume_level": True,
         "windows__size": 5, "windows__overlap": 2, "tracking__features": 200}


@cache
def sequence():
    return lap(40, 0.25)


@pytest.fixture
def make(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_LOG_DIR", os.fspath(tmp_path))
    benches = []

    def make_bench(reconstructor):
        benches.append(Bench(78, reconstructor, **SMALL))
        benches[-1].read_log = lambda: capfd.readouterr().err
        return benches[-1]

    yield make_bench
    for bench in benches:
        bench.close()


def test_a_transition_that_the_state_does_not_allow_is_refused(make):
    bench = make(sequence().oracle()).start()
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVATE))
    assert not bench.request(ChangeState, "/vggt_slam/change_state", request).success
    assert bench.logged("refused", "active does not allow it") and bench.state() == "active"


def test_cleanup_while_a_command_waits(make):
    """The command is executed, its response arrives, and the node can be configured again."""
    gate = GatedReconstructor(sequence().oracle())
    bench = make(gate).start()
    bench.info(sequence().frames[0])
    gate.open.clear()
    frames = iter(sequence().frames)
    while not gate.inside.is_set():
        bench.image(next(frames))
    client = bench.peer.create_client(Trigger, "/vggt_slam/reset")
    assert bench.spin(client.service_is_ready)
    answer = client.call_async(Trigger.Request())
    bench.spin(seconds=0.3)
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    threading.Timer(0.3, gate.open.set).start()
    assert bench.node.trigger_cleanup().name == "SUCCESS"
    assert bench.spin(answer.done, seconds=5.0)
    for transition in ("configure", "activate"):
        assert getattr(bench.node, f"trigger_{transition}")().name == "SUCCESS"
    assert bench.spin(lambda: bench.images.get_subscription_count() == 1)
    bench.spin(seconds=0.3)
    bench.info(sequence().frames[0])
    bench.play(sequence().frames[:25])
    assert len(bench.node.slam.solution) >= 5
