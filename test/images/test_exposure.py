"""Brightness: what is dark is stretched, and the change between two images is found."""

import cv2
import numpy as np
import pytest

from vggt_ros.benchmarks.disturbances import bands, texture
from vggt_ros.features.tracks import FeatureTracks
from vggt_ros.images.exposure import Brightness, brightness_change, stretch, with_bands_of

IMAGE = np.asarray(cv2.cvtColor(texture(240, 320, seed=3), cv2.COLOR_RGB2GRAY), np.uint8)


@pytest.mark.parametrize(("gain", "offset"), [(0.45, 0.0), (1 / 0.45, 0.0), (0.8, 20.0), (1.0, -15.0), (1.0, 0.0)])
def test_gain_and_offset_are_found_although_the_camera_has_moved(gain, offset):
    source = np.clip(0.5 * IMAGE + 20, 0, 255).astype(np.uint8)
    target = np.roll(np.clip(gain * source + offset, 0, 255).astype(np.uint8), (4, 9), (0, 1))
    target[:, :15] = 77  # what comes into view is different
    found = brightness_change(source, target)
    assert found.gain == pytest.approx(gain, rel=0.08)
    assert abs(found.apply_to(85.0) - (gain * 85 + offset)) < 5
    assert found.is_negligible == (gain == 1.0 and offset == 0.0)


def test_a_dark_image_is_stretched_and_an_ordinary_one_is_not():
    assert stretch(IMAGE) is IMAGE
    dark = (IMAGE * 0.12).astype(np.uint8)
    stretched = stretch(dark)
    low, high = np.quantile(stretched, [0.02, 0.98])
    assert high - low > 4 * np.subtract(*np.quantile(dark, [0.98, 0.02]))
    assert np.mean((stretched == 0) | (stretched == 255)) < 0.02
    assert np.corrcoef(stretched.ravel(), IMAGE.ravel())[0, 1] > 0.99


def test_an_image_of_one_gray_value_stays_in_range():
    for value in (0, 3, 255):
        flat = np.full((60, 80), value, np.uint8)
        assert stretch(flat).std() == 0
        assert brightness_change(flat, IMAGE[:60, :80]).apply(flat).dtype == np.uint8
    assert Brightness().apply(IMAGE) is IMAGE


def test_bands_of_a_lamp_that_flickers_are_those_of_the_other_image():
    source, target = bands(IMAGE, 0), bands(np.roll(IMAGE, (3, 5), (0, 1)), 1)
    matched = np.roll(with_bands_of(source, target), (3, 5), (0, 1)).astype(float)
    error = np.abs(matched - target)[5:-5]
    assert np.median(error) < 8 < 20 < np.median(np.abs(np.roll(source, (3, 5), (0, 1)).astype(float) - target)[5:-5])


def test_images_without_bands_are_not_given_any():
    moved = np.roll(IMAGE, (3, 5), (0, 1))
    assert with_bands_of(IMAGE, moved) is None
    assert with_bands_of(IMAGE, (moved * 0.5).astype(np.uint8)) is None  # a gain of all rows is none of bands


def test_corners_are_tracked_through_the_bands_of_a_lamp_that_flickers():
    large = np.asarray(cv2.cvtColor(texture(400, 520, seed=4), cv2.COLOR_RGB2GRAY), np.uint8)
    tracks = FeatureTracks(200)
    for index in range(8):
        gray = bands(np.ascontiguousarray(large[3 * index:3 * index + 240, 5 * index:5 * index + 320]), index)
        tracks.advance(gray, stamp=index)
        if index == 0:
            tracks.replenish()
            first = tracks.pixels.copy()
    kept = first[tracks.ids]
    inside = ((first - [35, 21]) > 4).all(1)  # what stays in the image
    assert len(kept) > 0.8 * inside.sum()
    assert np.median(np.linalg.norm(tracks.pixels - (kept - [35, 21]), axis=1)) < 1.5
