"""Fixtures of all tests."""

import pytest
from domains import own_domain, ros_environment


@pytest.fixture(autouse=True, scope="module")
def module_domain(tmp_path_factory):
    """The ROS_DOMAIN_ID of a file of tests: no other tests on this machine, such as those of xdist, use it."""
    with ros_environment(tmp_path_factory.mktemp("ros_log")) as domain:
        yield domain


@pytest.fixture
def other_domain():
    """A second DDS domain."""
    with own_domain() as domain:
        yield domain
