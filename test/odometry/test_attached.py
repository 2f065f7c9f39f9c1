"""The robot in its own camera's view, and cameras that alternate their exposure."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
from scenes import SIZE, lap, run, trajectory_error

from vggt_ros.config import Config
from vggt_ros.features.attached import AttachedRegion

COUNT = 60


@cache
def changed(kind):
    """The lap with images changed: a robot below that fills a share of the view, or every second image darker."""
    rng, frames = np.random.default_rng(0), []
    for index, frame in enumerate(lap().frames[:COUNT]):
        image = frame.image.copy()
        if kind == "flicker" and index % 2:
            image = (0.45 * image).astype(np.uint8)
        if isinstance(kind, float):
            height = int(kind * SIZE[1])
            texture = np.random.default_rng(1).integers(0, 256, (height // 6 + 1, SIZE[0] // 6, 3), np.uint8)
            body = cv2.resize(texture, (SIZE[0], height), interpolation=cv2.INTER_NEAREST).astype(int)
            image[-height:] = np.clip(body + rng.normal(0, 2, body.shape), 0, 255)  # the sensor's noise
        frames.append(replace(frame, image=image))
    return replace(lap(), frames=tuple(frames), world_camera=lap().world_camera[:COUNT])


@cache
def result(kind):
    sequence = changed(kind)
    return run(sequence, Config(), sequence.oracle(), follows_map=False)


@pytest.mark.parametrize("share", [0.4])
def test_the_robot_in_the_view_of_its_camera_is_left_out(share):
    """Corners on it do not move, so that their median motion made no keyframe at all."""
    ours, plain = result(share).slam, result("plain").slam
    assert ours.counts.keyframes > 0.6 * plain.counts.keyframes
    assert ours.counts.submaps == 1
    assert trajectory_error(*ours.solution.trajectory(0), changed(share))[0] < 0.01
    features = ours._localizer.features
    assert (features.pixels[:, 1] < (1 - share) * SIZE[1] + 2).mean() > 0.9
    assert abs(features.attached.mask[-int(share * SIZE[1]):].mean() - 1) < 0.1
    assert features.attached.mask[:int((1 - share - 0.15) * SIZE[1])].mean() < 0.02
    newest = list(result(share).slam.solution.keyframes.values())[-1]
    assert np.asarray(newest.color)[-newest.color.shape[0] // 8:].std(axis=(0, 1)).max() < 40, "nor is it in the map"


def test_without_a_robot_in_the_view_nothing_is_left_out():
    assert result("plain").slam._localizer.features.attached.mask is None


def test_every_second_image_darker():
    """Such as by an emitter, or bracketing: tracking went on with neither the one nor the other half."""
    ours, plain = result("flicker"), result("plain")
    assert ours.slam.counts.submaps == 1
    assert ours.slam.counts.relocalized <= plain.slam.counts.relocalized
    assert abs(ours.slam.counts.keyframes - plain.slam.counts.keyframes) <= 3
    assert ours.slam.counts.tracked >= plain.slam.counts.tracked - 3


def moved(kind, rng):
    """Yield ids, pixels and motion of 400 tracks over 60 images of 640x480."""
    pixels = rng.uniform((1, 1), (638, 478), (400, 2)).astype(np.float32)
    ids, next_id = np.arange(400), 400
    for _ in range(60):
        step = np.tile((4.0, 1.0), (len(ids), 1)) + rng.normal(0, 0.05, (len(ids), 2))
        if kind == "people":  # a camera on a tripod
            step[(pixels[:, 0] < 200) | (pixels[:, 0] > 390)] = rng.normal(0, 0.02, 2)
        if kind == "far":  # driving straight: what is far stays, but for the pitch of the car
            step = (pixels - (320, 240)) * 0.03
            step[pixels[:, 1] < 240] = 0
            step += (0, rng.normal(0, 0.8))
        if kind == "body":
            step[pixels[:, 1] > 330] = rng.normal(0, 0.03, 2)
        new = pixels + step.astype(np.float32)
        inside = ((new > 1) & (new < (638, 478))).all(1)
        ids, motion, pixels = ids[inside], (new - pixels)[inside], new[inside]
        count = 400 - len(ids)  # new corners where others have left
        fresh = rng.uniform((1, 1), (638, 478), (count, 2)).astype(np.float32)
        ids = np.concatenate([ids, np.arange(next_id, next_id + count)])
        next_id += count
        pixels, motion = np.concatenate([pixels, fresh]), np.concatenate([motion, np.full((count, 2), np.nan)])
        yield ids, pixels, motion.astype(np.float32)


@pytest.mark.parametrize(("kind", "rows"), [("people", None), ("far", None), ("plain", None), ("body", 330)])
def test_what_stands_still_is_only_the_robot_if_the_camera_moves(kind, rows):
    region = AttachedRegion()
    for ids, pixels, motion in moved(kind, np.random.default_rng(0)):
        region.update(ids, pixels, motion, (480, 640), 1.0)
    if rows is None:
        assert region.mask is None
    else:
        assert region.mask[rows + 10:].mean() > 0.95
        assert region.mask[:rows - 40].mean() < 0.01


def test_a_region_is_found_anew_after_a_while():
    region, rng = AttachedRegion(), np.random.default_rng(0)
    for ids, pixels, motion in moved("body", rng):
        region.update(ids, pixels, motion, (480, 640), 1.0)
    assert region.mask is not None
    for _ in range(20):
        for ids, pixels, motion in moved("plain", rng):
            region.update(ids, pixels, motion, (480, 640), 1.0)
    assert region.mask is None
