"""The bond with Nav2's lifecycle manager, against another implementation of the manager's side, on real DDS."""

import itertools
import time
from functools import cache

import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
bond = pytest.importorskip("bond.msg", reason="the messages of the package bond are not built")
from bench import Bench
from scenes import lap

from vggt_ros.ros.common.bond import ALIVE, DEAD, ENDING, WAITING, Bond

SETTINGS = {"tf__base_timeout": 0.0, "tf__assume_level": True, "tracking__features": 200, "bond_heartbeat_period": 0.1}


class Manager:
    """The manager's side, by the description of bond_core: it counts on nothing but the topic.

    `heard` are the heartbeats as (time, message) of the other side, `told` the time of the first `active: false`.
    """

    def __init__(self, peer, name="vggt_slam"):
        self.peer, self.name, self.heard, self.told, self.active = peer, name, [], None, True
        self.acknowledges = True
        self.publisher = peer.peer.create_publisher(bond.Status, "bond", 5)
        self.subscription = peer.peer.create_subscription(bond.Status, "bond", self.take, 100)
        self.timer = peer.peer.create_timer(0.1, lambda: self.active and self.say(True))

    def say(self, active):
        self.publisher.publish(bond.Status(id=self.name, instance_id="the manager", active=active,
                                           heartbeat_timeout=4.0, heartbeat_period=0.1))

    def take(self, message):
        if message.id != self.name or message.instance_id == "the manager":
            return
        self.heard.append((time.monotonic(), message))
        if not message.active:
            self.told = self.told or time.monotonic()
            self.active = False
            if self.acknowledges:
                self.say(False)

    def end(self):
        self.active = False
        for entity, destroy in ((self.timer, self.peer.peer.destroy_timer),
                                (self.subscription, self.peer.peer.destroy_subscription),
                                (self.publisher, self.peer.peer.destroy_publisher)):
            destroy(entity)


@cache
def sequence():
    return lap(10, 0.25)


@pytest.fixture(scope="module")
def node():
    bench = Bench(sequence().oracle(), ["status"], **SETTINGS)
    try:
        bench.start()
        yield bench
    finally:
        bench.close()


@pytest.fixture
def bench(node, capfd):
    """The node, inactive."""
    node.log, node.read_log = "", lambda: capfd.readouterr().err
    node.node.trigger_deactivate()
    assert node.spin(lambda: node.node.bond.state == DEAD)
    return node


def bonded(bench):
    """Activate the node, and return a manager that has formed a bond with it."""
    manager = Manager(bench)
    assert bench.node.trigger_activate().name == "SUCCESS"
    assert bench.spin(lambda: bench.node.bond.state == ALIVE and manager.heard)
    return manager


def test_heartbeats_while_the_node_is_active(bench):
    """None before; then with the name of the node, one instance, and the period and timeout that are configured."""
    before = Manager(bench)
    bench.spin(seconds=0.5)
    assert not before.heard and bench.node.bond.state == DEAD
    before.end()
    manager = bonded(bench)
    manager.heard.clear()
    began = time.monotonic()
    assert bench.spin(lambda: len(manager.heard) >= 15)
    assert time.monotonic() - began > 1.0  # 1.4 s, had all been on time
    times = [when for when, _ in manager.heard]
    assert max(b - a for a, b in itertools.pairwise(times)) < 4.0, "a manager would have given it up"
    for _, message in manager.heard:
        assert message.active and message.heartbeat_timeout == 4.0 and message.heartbeat_period == pytest.approx(0.1)
    assert len({message.instance_id for _, message in manager.heard}) == 1
    assert bench.logged("bonded with a lifecycle manager")
    manager.end()


def test_the_bond_ends_when_the_node_is_deactivated_and_forms_again(bench):
    manager = bonded(bench)
    first = manager.heard[-1][1].instance_id
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    assert bench.spin(lambda: manager.told)
    assert bench.spin(lambda: bench.node.bond.state == DEAD)  # acknowledged
    manager.heard.clear()
    bench.spin(seconds=0.5)
    assert not manager.heard
    manager.end()
    again = bonded(bench)
    assert again.heard[-1][1].instance_id != first and not again.told
    again.end()


def test_without_an_acknowledgment_the_node_tells_for_two_seconds(bench):
    manager = bonded(bench)
    manager.acknowledges = False
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    assert bench.node.bond.state == ENDING
    assert bench.spin(lambda: manager.told)
    assert bench.spin(lambda: bench.node.bond.state == DEAD)
    told = len(manager.heard)
    bench.spin(seconds=0.5)
    assert len(manager.heard) <= told + 1
    ending = list(itertools.dropwhile(lambda heard: heard[1].active, manager.heard))
    assert 5 < len(ending) < 45 and not any(message.active for _, message in ending)
    manager.end()


def test_a_manager_that_ends_or_falls_silent_does_not_stop_the_node(bench):
    """Nor does it get heartbeats any more; its end is acknowledged."""
    manager = bonded(bench)
    manager.active = False
    manager.say(False)
    assert bench.spin(lambda: manager.told) and bench.node.bond.state == DEAD
    assert bench.state() == "active" and bench.logged("the lifecycle manager ended the bond")
    manager.end()
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    silent = bonded(bench)
    silent.active = False
    assert bench.spin(lambda: bench.node.bond.state == DEAD)
    assert time.monotonic() - bench.node.bond._heard > 3.5
    assert bench.state() == "active" and bench.logged("no heartbeat of the lifecycle manager for 4 s")
    silent.end()


def test_bonds_of_other_nodes_are_not_taken_for_this_one(bench):
    manager = Manager(bench, "amcl")
    assert bench.node.trigger_activate().name == "SUCCESS"
    bench.spin(seconds=0.5)
    assert bench.node.bond.state == WAITING
    manager.end()


def test_without_a_period_there_is_no_bond(bench):
    manager, bond_of_node = Manager(bench), Bond(bench.node, 0.0)
    bond_of_node.start()
    bench.spin(seconds=0.5)
    assert not manager.heard and bond_of_node.state == DEAD
    manager.end()
