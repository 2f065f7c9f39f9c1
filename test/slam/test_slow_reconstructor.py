"""A reconstructor slower than the camera: keyframes are farther apart, some are thinned, tracking bridges the gaps, and
the map has no break."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from data_folder import recorded
from scenes import lap

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Rectifier
from vggt_ros.geometry.poses import umeyama
from vggt_ros.reconstruction.multiview.reconstructor import Multiview
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.slam import Slam
from vggt_ros.windows.frame import Frame
from vggt_ros.windows.load import Load

SECONDS_A_WINDOW = 2.2
"""Simulated time per window; the images of the sequence would need a window per second."""
IMAGES = 220


def test_a_real_sequence_at_twice_the_speed_of_the_reconstructor() -> None:
    """The worker's time is simulated, so that the test does not depend on the speed of the machine.

    Keyframes are farther apart under load; if they were not, 40 of 87 would be thinned. Consecutive ones are then too
    far apart to match directly: without the features tracked in between, windows fail here. If landmarks were lost at
    every new solution, a fifth of the images would have no pose.
    """
    sequence, config = open_sequence(recorded("tum_fr1_xyz")), Config()
    reconstructor = Multiview(config)
    slam = Slam(config, reconstructor)
    rectify = Rectifier(sequence.camera, reconstructor.image_size(sequence.camera), sequence.rectified)
    waiting, solving, free, states = [], None, 0.0, []
    for stamp, image in sequence:
        now = stamp * 1e-9
        while True:
            if solving is not None and free <= now:
                slam.step(solving)
                solving = None
            if solving is not None or not waiting:
                break
            formed, solving = waiting.pop(0)
            free = max(free, formed) + SECONDS_A_WINDOW
        tracked = slam.track(Frame(stamp, rectify(image), rectify.intrinsics, True),
                             Load(solving is not None or bool(waiting), len(waiting) + slam.buffer.waiting))
        if tracked.window is not None:
            waiting.append((now, tracked.window))
        states.append(tracked.state)
        if len(states) == IMAGES:
            break
    assert slam.counts.spaced > 20
    assert 0 < slam.counts.thinned < 0.3 * slam.counts.keyframes
    assert slam.counts.submaps == 1 and slam.counts.unplaced == 0
    located = states[states.index("TRACKING"):]
    assert located.count("TRACKING") + located.count("DEGRADED") > 0.95 * len(located)
    stamps, poses = slam.solution.trajectory(0)
    true_stamps, truth = sequence.truth
    at = np.abs(true_stamps[:, None] - stamps).argmin(0)
    near = np.abs(true_stamps[at] - stamps) < 2e7
    ours, theirs = poses[near, :3, 3], truth[at[near], :3, 3]
    error = np.linalg.norm(umeyama(ours, theirs).apply(ours) - theirs, axis=1)
    assert np.sqrt(np.mean(error**2)) < 0.035


def test_no_window_is_lost_if_the_camera_is_uncovered_elsewhere_when_the_reconstructor_gets_free() -> None:
    """Windows wait while the camera is covered; one is formed at the image that shows another place."""
    sequence, windows = lap(), []
    slam, black = Slam(Config(), sequence.oracle()), np.zeros_like(sequence.frames[0].image)
    for i, frame in enumerate([*sequence.frames[:80], *sequence.frames[:15], *sequence.frames[5:25]]):
        image = black if 80 <= i < 95 else frame.image
        moved = replace(frame, stamp=sequence.frames[0].stamp + i * 10**8, image=image)
        tracked = slam.track(moved, Load(busy=40 <= i < 95))
        if tracked.window is not None:
            windows.append(tracked.window)
            if i < 40:
                slam.step(tracked.window)
    windows += iter(slam.flush, None)
    assert any(not window.shared for window in windows[1:]), "no window begins anew, which is what is tested"
    assert [window.id for window in windows] == list(range(len(windows)))
    assert len({k for window in windows for k in window.ids}) + slam.buffer.thinned >= slam.counts.keyframes - 1
