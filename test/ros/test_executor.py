"""Messages that cannot be taken: they are reported, unless SIGINT is the reason."""

import time

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs rclpy")

from rclpy.executors import ExternalShutdownException
from std_msgs.msg import String

from vggt_ros.ros.common.executor import TolerantExecutor


class Reports:
    """The guard of a node."""

    def __init__(self):
        self.topics, self.errors = [], []

    def report(self, topic, error):
        self.topics.append(topic)
        self.errors.append(str(error))


class Interrupted(type(String)):
    def __call__(cls, *args, **kwargs):
        raise KeyboardInterrupt


@pytest.fixture
def taking(monkeypatch):
    """An executor, and a subscription with a message in its queue, whose conversion SIGINT interrupts.

    The handler of the signal raises while C code of rclpy runs Python, here as the message is created; what rclpy makes
    of it is a RuntimeError.
    """
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("taker", context=context)
    node.guard, executor = Reports(), TolerantExecutor(context=context)
    executor.add_node(node)
    subscription = node.create_subscription(String, "text", lambda message: None, 10)
    publisher = node.create_publisher(String, "text", 10)
    while not publisher.get_subscription_count():
        time.sleep(0.01)
    for _ in range(5):  # the subscription finds the publisher at another moment than the publisher the subscription
        publisher.publish(String(data="text"))
        time.sleep(0.1)
    monkeypatch.setattr("std_msgs.msg._string.String", Interrupted("String", (), {"__slots__": ()}))
    yield executor, subscription, node
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def test_a_message_that_cannot_be_taken_is_reported_with_its_topic(taking):
    executor, subscription, node = taking
    assert executor._take_subscription(subscription) is None
    assert node.guard.topics == ["/text"] and "Unable to convert call argument" in node.guard.errors[0]


def test_after_the_context_was_shut_down_nothing_is_reported(taking):
    """Known fault: a healthy node ended with a traceback in its log, where SIGINT came at that moment."""
    executor, subscription, node = taking
    rclpy.shutdown(context=node.context)
    with pytest.raises(ExternalShutdownException):
        executor._take_subscription(subscription)
    assert node.guard.topics == []
