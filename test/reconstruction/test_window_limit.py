"""How many images are solved at once, when memory becomes short and comes back."""

import logging

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.window_limit import WindowLimit


def needed(frames):
    return 1e9 + 0.5e9 * frames


def test_the_limit_follows_the_memory(caplog):
    """8 images need 5 GB. The largest window is asked for again when memory is back, with a margin."""
    limit = WindowLimit(overlap=3, name="vggt")
    with caplog.at_level(logging.INFO, "vggt_ros"):
        limit.update(8, needed, 5.1e9, "518x392")
        assert (limit.most >= 8, limit.reason) == (True, "")
        limit.update(8, needed, 4.2e9, "518x392")
        assert limit.most == 6
        assert limit.reason.startswith("windows of more than 6 images: 8 images of 518x392 need about 5.00 GB")
        limit.update(8, needed, 3.1e9, "518x392")
        assert limit.most == 4
        limit.update(8, needed, 4.5e9, "518x392")
        assert limit.most == 6 and "memory is back: windows of up to 6 images" in caplog.text
        limit.update(8, needed, 5.2e9, "518x392")  # enough, but not with a margin: it must not alternate
        assert limit.most == 6
        limit.update(8, needed, 5.6e9, "518x392")
        assert limit.most >= 8 and limit.reason == "" and "windows of any size" in caplog.text


def test_small_windows_do_not_change_the_limit():
    limit = WindowLimit(overlap=3, name="vggt")
    limit.update(8, needed, 4.2e9, "518x392")
    limit.update(3, needed, 9e9, "518x392")
    assert limit.most == 6


def test_after_a_failure_more_memory_has_to_be_free_than_then():
    """The model says that 8 images fit, and they do not: the model is not asked again before memory has changed."""
    limit = WindowLimit(overlap=3, name="vggt")
    limit.update(8, needed, 6e9, "518x392")
    limit.fail(8, 6e9, "memory ran out on cuda")
    assert (limit.most, limit.reason) == (6, "windows of more than 6 images: memory ran out on cuda")
    limit.update(8, needed, 6.3e9, "518x392")
    assert limit.most == 6
    limit.update(8, needed, 6.7e9, "518x392")
    assert limit.most >= 8


def test_unknown_memory_does_not_come_back():
    limit = WindowLimit(overlap=3, name="vggt")
    limit.fail(8, float("inf"), "memory ran out on cpu")
    limit.update(8, needed, float("inf"), "518x392")
    assert limit.most == 6


def test_two_images_that_do_not_fit_are_refused_and_asked_for_again():
    limit = WindowLimit(overlap=3, name="vggt")
    for _ in range(2):
        with pytest.raises(ReconstructionRefused, match=r"2 images of 518x392 need about 2\.00 GB .* smaller images"):
            limit.update(8, needed, 1.9e9, "518x392")
    with pytest.raises(ReconstructionRefused, match="memory ran out on cuda, with two images"):
        limit.fail(2, 1e9, "memory ran out on cuda")
    limit.update(8, needed, 9e9, "518x392")
    assert limit.most >= 8
