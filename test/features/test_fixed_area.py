"""What never moves in the image while all else flows is left out; what only seems to is not."""

import numpy as np

from vggt_ros.benchmarks.disturbances import texture
from vggt_ros.features.tracks import FeatureTracks

HEIGHT, WIDTH = 240, 320
BACKGROUND = texture(600, 900, seed=7)[..., 0]
BODY = texture(HEIGHT // 2, WIDTH // 2, seed=8)[..., 0]


def images(count, step, body=True, still_until=0):
    """A camera that passes a textured wall, `step` pixels an image, with its own body in the lower left quarter."""
    for index in range(count):
        at = 3 * index + 20 if step is None else 20 + step * max(index - still_until, 0)
        image = BACKGROUND[50:50 + HEIGHT, at:at + WIDTH].copy()
        if body:
            image[HEIGHT // 2:, :WIDTH // 2] = BODY
        yield np.ascontiguousarray(image)


def tracked(sequence):
    tracks = FeatureTracks(200)
    for index, image in enumerate(sequence):
        tracks.advance(image)
        if index % 3 == 0:
            tracks.replenish()
        yield tracks, image


def in_body(pixels):
    return (pixels[:, 0] < WIDTH // 2 - 4) & (pixels[:, 1] > HEIGHT // 2 + 4)


def test_the_robots_own_body_is_left_out_after_a_while():
    counts = [in_body(tracks.pixels).sum() for tracks, _ in tracked(images(45, 4))]
    assert counts[3] > 20, "at first its corners are tracked as all others"
    assert max(counts[16:]) < 12
    assert counts[-1] < 3, "but for its edge"


def test_nearly_all_of_the_body_and_little_else_is_masked():
    *_, (tracks, _) = tracked(images(30, 4))
    mask = np.kron(tracks.excluded, np.ones((10, 10), bool))[:HEIGHT, :WIDTH]
    assert mask[HEIGHT // 2 + 10:, :WIDTH // 2 - 10].mean() > 0.9
    assert mask.mean() < 0.36
    assert len(tracks.ids) > 100


def test_a_camera_that_stands_still_masks_nothing():
    *_, (tracks, _) = tracked(images(30, 0))
    assert tracks.excluded is None
    *_, (tracks, _) = tracked(images(40, 4, body=False, still_until=25))
    assert tracks.excluded is None


def test_someone_who_walks_by_a_still_camera_does_not_mask_the_background():
    def walk():
        person = texture(HEIGHT, WIDTH // 3, seed=9)[..., 0]
        for index in range(60):
            image = BACKGROUND[50:50 + HEIGHT, 20:20 + WIDTH].copy()
            left = 5 * index - 60
            begin, end = max(left, 0), min(left + WIDTH // 3, WIDTH)
            if end > begin:
                image[:, begin:end] = person[:, begin - left:end - left]
            yield np.ascontiguousarray(image)
    *_, (tracks, _) = tracked(walk())
    assert tracks.excluded is None


def test_a_part_that_moves_again_is_used_again():
    """A cover in front of a part of the lens, which is taken off."""
    sequence = [*images(25, 4)]
    for index in range(25):
        at = 20 + 4 * (25 + index)
        sequence.append(np.ascontiguousarray(BACKGROUND[50:50 + HEIGHT, at:at + WIDTH]))
    seen = [tracks.excluded is not None for tracks, _ in tracked(sequence)]
    assert seen[20] and not seen[-1]
