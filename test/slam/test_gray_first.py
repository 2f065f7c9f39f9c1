"""Images that come in gray first are tracked and mapped as those in color, which only keyframes are asked for."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scenes import lap

from vggt_ros.config import Config
from vggt_ros.slam import Slam

IMAGES = 50


def gray_first(frame, asked):
    """The frame in gray, whose color notes the stamp when it is made."""
    def color():
        asked.append(frame.stamp)
        return frame.image

    return replace(frame, image=np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)), color=color)


def test_the_same_map_as_in_color_and_color_for_keyframes_only():
    asked = []
    runs = []
    for frames in (lap().frames[:IMAGES], [gray_first(frame, asked) for frame in lap().frames[:IMAGES]]):
        slam, poses, images = Slam(Config(), lap().oracle()), [], {}
        for frame in frames:
            tracked = slam.track(frame)
            poses.append(tracked.map_camera)
            if tracked.window is not None:
                slam.step(tracked.window)
                images |= {keyframe.id: keyframe.image for keyframe in tracked.window.keyframes}
        runs.append((poses, images, slam.solution.map_camera, slam.counts.keyframes))
    (poses, images, map_camera, keyframes), (gray_poses, gray_images, gray_map_camera, _) = runs
    assert len(map_camera) > 8 and np.array_equal(map_camera, gray_map_camera)
    assert sum(pose is not None for pose in poses) > 10
    assert all((one is None) == (other is None) and (one is None or np.array_equal(one, other))
               for one, other in zip(poses, gray_poses, strict=True))
    assert images.keys() == gray_images.keys() and all(np.array_equal(images[k], gray_images[k]) for k in images)
    assert keyframes - 1 <= len(asked) <= keyframes < IMAGES  # that of the newest one may still be in the making


def test_a_color_that_cannot_be_made_loses_its_window_with_the_reason():
    def fails():
        raise ValueError("the color is damaged")

    slam = Slam(Config(), lap().oracle())
    for index, frame in enumerate(lap().frames[:IMAGES]):
        window = slam.track(replace(gray_first(frame, []), color=fails) if index == 0 else frame).window
        if window is not None:
            break
    assert window is not None
    with pytest.raises(ValueError, match="color is damaged"):
        slam.step(window)


def test_no_color_is_made_where_no_keyframe_is_kept():
    """In mode localization; and where colors were made, none is remembered for long."""
    asked = []
    slam = Slam(Config(), lap().oracle())
    frames = [gray_first(frame, asked) for frame in lap().frames[:IMAGES + 30]]
    for frame in frames[:IMAGES]:
        window = slam.track(frame).window
        if window is not None:
            slam.step(window)
    slam.change_mode("localization")
    slam._colors.wait(range(1000))
    assert slam.counts.keyframes > 8
    assert len(slam._colors._pending) < 4
    before, located = len(asked), [slam.track(frame).map_camera is not None for frame in frames[IMAGES:]]
    assert sum(located) > 25
    assert slam._next_keyframe > slam.counts.keyframes, "no image was tracked as a keyframe would be"
    assert len(asked) == before
