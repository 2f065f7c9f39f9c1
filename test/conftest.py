"""Fixtures of all tests."""

import hashlib
from collections import OrderedDict

import pytest
from domains import own_domain, ros_environment

from vggt_ros.features import appearance


@pytest.fixture(autouse=True, scope="session")
def sift_once():
    """Find the SIFT features of an image once: many tests run the same images, and it takes a third of that."""
    find, found = appearance.root_sift, OrderedDict()

    def root_sift(image, excluded=None):
        mask = None if excluded is None else excluded.tobytes()
        key = image.shape, hashlib.sha1(image.tobytes()).digest(), mask
        if key not in found:
            found[key] = find(image, excluded)
            for array in found[key]:
                array.flags.writeable = False
        found.move_to_end(key)
        if len(found) > 300:
            found.popitem(last=False)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(appearance, "root_sift", root_sift)
        yield


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


LONGEST = ("test_integration", "test_vggt_memory", "test_slam", "test_vggt_node", "test_replay", "test_node",
           "test_loops", "test_robustness", "test_workers", "test_rolling_shutter", "test_map_files", "test_merging",
           "test_remote", "test_vggt_network", "test_metric_input", "test_front_door", "test_frames", "test_plugins",
           "test_refinement", "test_vggt_download", "test_bag_player", "test_time", "test_vggt_decoding", "test_qos",
           "test_kidnapped")
"""Files whose tests take longest, those that wait between those that compute."""


def pytest_collection_modifyitems(items):
    """Begin with the longest files: with xdist's `--dist loadfile` the last one would run alone."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
