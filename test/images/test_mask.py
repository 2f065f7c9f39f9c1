"""The picture of `camera.mask`: what is black is left out, and what cannot be meant is refused with words."""

import cv2
import numpy as np
import pytest

from vggt_ros.geometry.camera import Camera, Rectifier
from vggt_ros.images.mask import free_pixels, is_masked, read_mask, reduced, resized, union
from vggt_ros.settings import ConfigError

RECTIFIER = Rectifier(Camera.assumed(320, 240, 65.0), (160, 120))


def test_what_is_black_is_left_out(tmp_path):
    picture = np.full((240, 320), 255, np.uint8)
    picture[160:] = 0
    cv2.imwrite(str(tmp_path / "mask.png"), picture)
    mask = read_mask(str(tmp_path / "mask.png"), RECTIFIER)
    free = free_pixels(mask, (120, 160))
    assert (free[:72] == 255).all() and (free[80:] == 0).all()
    assert is_masked(mask, np.array([[10.0, 10.0], [150.0, 110.0]]), (120, 160)).tolist() == [False, True]


def test_without_a_picture_or_with_a_white_one_nothing_is_left_out(tmp_path):
    assert read_mask("", RECTIFIER) is None
    cv2.imwrite(str(tmp_path / "white.png"), np.full((240, 320), 255, np.uint8))
    assert read_mask(str(tmp_path / "white.png"), RECTIFIER) is None
    assert free_pixels(None, (120, 160)) is None
    assert not is_masked(None, np.zeros((3, 2)), (120, 160)).any()


@pytest.mark.parametrize(("picture", "words"), [
    (None, "not a readable picture"), (np.full((240, 240), 255, np.uint8), "aspect ratio"),
    (np.zeros((240, 320), np.uint8), "leaves nothing")])
def test_a_picture_that_cannot_be_meant_is_refused(tmp_path, picture, words):
    if picture is not None:
        cv2.imwrite(str(tmp_path / "mask.png"), picture)
    with pytest.raises(ConfigError, match=rf"camera\.mask: .*{words}"):
        read_mask(str(tmp_path / "mask.png"), RECTIFIER)


def test_the_mask_is_rectified_as_the_images_are(tmp_path):
    """Through a lens of strong distortion, what is masked is what the image shows there."""
    camera = Camera(320, 240, np.array([[250.0, 0, 160], [0, 250, 120], [0, 0, 1]]), (-0.3, 0.08, 0.0, 0.0))
    rectifier = Rectifier(camera, (320, 240))
    picture = np.full((240, 320), 255, np.uint8)
    cv2.circle(picture, (60, 200), 30, 0, -1)
    cv2.imwrite(str(tmp_path / "mask.png"), picture)
    seen = rectifier(np.repeat(picture[..., None], 3, 2))[..., 0] < 128
    mask = resized(read_mask(str(tmp_path / "mask.png"), rectifier), seen.shape)
    assert (mask & seen).sum() == seen.sum(), "all of it"
    assert mask.sum() < 1.7 * seen.sum(), "and little else"


def test_union_of_masks_of_different_sizes():
    first, second = np.zeros((12, 16), bool), np.zeros((6, 8), bool)
    first[0, 0], second[5, 7] = True, True
    both = union(first, second)
    assert both.shape == first.shape and both[0, 0] and both[11, 15] and not both[5, 5]
    assert union(None, second) is second and union(first, None) is first and union(None, None) is None
    assert reduced(np.eye(64, dtype=bool)).shape == (8, 8)
