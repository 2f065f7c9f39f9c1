"""Interlaced images: combs are found, where there are any, and only then rows are interpolated."""

import logging

import numpy as np
import pytest

from vggt_ros.benchmarks.disturbances import Interlaced, texture
from vggt_ros.images.interlaced import Deinterlacer, interpolated, is_combed

WIDE = texture(240, 420, seed=3)
IMAGES = [np.ascontiguousarray(WIDE[:, 6 * index:6 * index + 320]) for index in range(8)]
NOISE = np.random.default_rng(0)


def interlaced(images=IMAGES):
    comb = Interlaced()
    return [comb(image, index) for index, image in enumerate(images)]


def test_combs_are_found_in_color_and_gray():
    assert [is_combed(image) for image in interlaced()] == [False] + 7 * [True]
    assert all(is_combed(image) for image in interlaced([image[..., 0] for image in IMAGES])[1:])


@pytest.mark.parametrize("image", [
    IMAGES[0], np.zeros((40, 60), np.uint8), np.zeros((1, 60), np.uint8), NOISE.integers(0, 256, (240, 320), np.uint8),
    np.clip(IMAGES[0] + NOISE.normal(0, 40, IMAGES[0].shape), 0, 255).astype(np.uint8)],
    ids=["texture", "black", "one row", "noise", "noisy texture"])
def test_other_images_stay_as_they_are(image):
    assert Deinterlacer()(image) is image


def test_the_rows_of_one_time_are_kept(caplog):
    deinterlace = Deinterlacer()
    with caplog.at_level(logging.WARNING):
        found = [deinterlace(image) for image in interlaced()]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    for image, now in zip(IMAGES[1:], found[1:], strict=True):
        np.testing.assert_array_equal(now[::2], image[::2])
        assert np.abs(now.astype(float) - image).mean() < 0.1 * image.std()
    assert np.abs(interlaced()[1].astype(float) - IMAGES[1]).mean() > 0.3 * IMAGES[1].std()
    still = deinterlace(IMAGES[0])  # where the camera stands still nothing is combed, but rows stay where they are
    np.testing.assert_array_equal(still, interpolated(IMAGES[0]))


@pytest.mark.parametrize("height", [1, 2, 3, 240])
def test_interpolated_rows_are_between_those_beside_them(height):
    ramp = np.repeat(np.arange(height, dtype=np.uint8)[:, None], 5, 1)
    expected = ramp.copy()
    if height % 2 == 0:
        expected[-1] = height - 2  # nothing is below it
    np.testing.assert_array_equal(interpolated(ramp), expected)
