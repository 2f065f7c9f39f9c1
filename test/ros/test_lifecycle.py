"""Requests that the lifecycle node of rclpy does not survive."""

import threading
import time
from concurrent.futures import Future
from functools import cache

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
import rclpy
from bench import Bench, GatedReconstructor
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from scenes import lap
from std_srvs.srv import Trigger

from vggt_ros.ros.common import lifecycle
from vggt_ros.ros.node import slam_node
from vggt_ros.ros.node.results import Results

SMALL = {"tf__base_timeout": 0.0, "tf__assume_level": True,
         "windows__size": 5, "windows__overlap": 2, "tracking__features": 200}


@cache
def sequence():
    return lap(40, 0.25)


@pytest.fixture
def make(capfd):
    benches = []

    def make_bench(reconstructor):
        benches.append(Bench(reconstructor, **SMALL))
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


def test_a_node_that_nobody_activates_says_so(monkeypatch, capfd, other_domain):
    """As `ros2 run vggt_ros slam_node` by itself: it looks as if it did nothing."""
    monkeypatch.setattr(lifecycle, "START_TIME", 0.1)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=other_domain)
    executor = SingleThreadedExecutor(context=context)
    node = slam_node.SlamNode(context=context)
    executor.add_node(node)
    said, end = "", time.monotonic() + 20
    while "does nothing" not in said and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)
        said += capfd.readouterr().err
    assert "the node is unconfigured, and does nothing yet: `ros2 lifecycle set /vggt_slam configure`, then" in said
    node.close()
    node.destroy_node()
    executor.shutdown()
    context.try_shutdown()


def test_the_status_says_at_once_that_the_reconstructor_is_ready(make):
    """Whoever waits for it, such as a player of bags, once waited up to a second longer, for the next regular one."""
    gate, oracle = threading.Event(), sequence().oracle()

    def create(*_):
        assert gate.wait(60)
        return oracle, "the oracle, after a while"

    bench = make(create)
    assert bench.node.trigger_configure().name == "SUCCESS"
    assert bench.status_now()["state"] == "LOADING"
    bench.node.periodic_work._timers[-1].cancel()  # of the regular status
    gate.set()
    assert bench.spin(lambda: bench.status()["state"] != "LOADING", 5.0)


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
    assert bench.spin(answer.done)
    for transition in ("configure", "activate"):
        assert getattr(bench.node, f"trigger_{transition}")().name == "SUCCESS"
    assert bench.spin(lambda: bench.images.get_subscription_count() == 1)
    bench.spin(seconds=0.3)
    bench.info(sequence().frames[0])
    bench.play(sequence().frames[:25])
    assert len(bench.node.slam.solution) >= 5


def test_a_configure_that_raises_leaks_nothing(make, monkeypatch):
    """Each attempt once left its publishers and a thread behind."""
    bench = make(sequence().oracle())

    def fail(*_):
        raise RuntimeError("for a test")

    def state():
        entities = [list(kind) for kind in (bench.node.publishers, bench.node.subscriptions, bench.node.timers,
                                            bench.node.guards)]
        return [len(kind) for kind in entities], threading.active_count()

    before = state()
    with monkeypatch.context() as patched:
        patched.setattr(slam_node, "PeriodicWork", fail)  # the last part that is created
        for _ in range(3):
            assert bench.node.trigger_configure().name == "ERROR"
            bench.spin(seconds=0.2)
    assert bench.logged("configuring: RuntimeError('for a test')"), "rclpy says nothing of it"
    assert bench.spin(lambda: state() == before), (before, state())
    bench.start()
    assert bench.state() == "active"


def test_the_mode_changes_while_the_node_runs(make):
    bench = make(sequence().oracle()).start()
    bench.info(sequence().frames[0])
    refused = bench.set(mode="localization")
    assert "needs a map" in refused[0]
    bench.play(sequence().frames[:25])
    assert bench.set(mode="localization") == [""]
    bench.settle()
    mapped = bench.node.slam.solution
    assert len(mapped) > 0
    bench.play(sequence().frames[25:32])
    assert bench.node.slam.solution is mapped and bench.status_now()["mode"] == "localization"
    assert bench.node.monitor.tracked.state == "TRACKING"
    assert bench.set(mode="mapping", tf__transform_tolerance=0.25) == ["", ""]
    bench.play(sequence().frames[32:])
    assert bench.status_now()["mode"] == "mapping" and bench.node.transforms._config.transform_tolerance == 0.25


def test_a_worker_that_was_given_up_may_end_after_the_node(make, caplog):
    """Known fault: where it ended between the node and the process, the log had a traceback for each of its results."""
    results, late = Results(make(sequence().oracle()).node, lambda: None), Future()
    results.wake_when_done(late)
    results.close()
    late.set_result(None)
    results.put(RuntimeError("for a test"))
    assert "exception calling callback" not in caplog.text
