"""Stamps that step back or jump, calibrations and image sizes that change: what is left out, what the map survives."""

import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from bench import CAMERA, Bench
from scenes import lap, trajectory_error

from vggt_ros.ros.conversions import messages
from vggt_ros.sequences.intake import Intake
from vggt_ros.sequences.stamps import Order, StampCheck
from vggt_ros.storage.map_folder import load_map
from vggt_ros.synthetic import SceneReconstructor, room

SMALL = {"tf__base_timeout": 0.0, "tf__assume_level": True,
         "windows__size": 5, "windows__overlap": 2, "tracking__features": 200}
SHORT, LONG = 25, 50
"""Number of images of a run with the first windows, and of one that goes on for as long again."""
HOUR, SECOND = 3_600_000_000_000, 1_000_000_000


@cache
def oracle():
    """Exact geometry of the lap, also for its images with stamps of an hour before."""
    stamps = [frame.stamp for frame in lap().frames]
    return SceneReconstructor(room(), [*stamps, *(stamp - HOUR for stamp in stamps)], np.tile(
        lap().world_camera, (2, 1, 1)))


@pytest.fixture
def make(capfd):
    benches = []

    def make_bench(**parameters):
        benches.append(Bench(oracle(), ["status", "odom"], **{**SMALL, **parameters}))
        benches[-1].read_log = lambda: capfd.readouterr().err
        benches[-1].start()
        benches[-1].info(lap().frames[0])
        return benches[-1]

    yield make_bench
    for bench in benches:
        bench.close()


def moved(frame, seconds):
    """Return a frame with another stamp."""
    return replace(frame, stamp=frame.stamp + round(seconds * SECOND))


def test_small_steps_back_are_late_images_and_cost_nothing(make):
    bench = make()
    bench.play(lap().frames[:SHORT])
    solved = len(bench.node.slam.solution)
    assert solved > 0
    last = lap().frames[SHORT - 1]
    for seconds in (-0.05, -0.15, -0.9, 0.0):
        bench.image(moved(last, seconds))
    assert bench.counts["late"] == 4 and bench.logged("/image", "50.0 ms older than the one before")
    bench.play(lap().frames[SHORT:30])
    status = bench.status_now()
    assert (status["resets"], status["interruptions"], status["submaps"]) == ("0", "0", "1")
    assert len(bench.node.slam.solution) >= solved


def test_one_wrong_stamp_is_left_out(make):
    bench = make()
    bench.play(lap().frames[:SHORT])
    for index, seconds in enumerate((-HOUR / SECOND, HOUR / SECOND, 1e9 - lap().frames[0].stamp / SECOND)):
        bench.image(moved(lap().frames[SHORT + index], seconds))
        bench.image(lap().frames[SHORT + index])
    assert bench.counts["late"] == 3 and bench.logged("/image", "if the next one agrees")
    assert bench.node.monitor.resets == bench.node.monitor.interruptions == 0
    bench.play(lap().frames[SHORT + 3:30])
    assert bench.node.monitor.tracked.state == "TRACKING"


def test_a_jump_of_time_begins_a_submap_and_the_map_is_saved_first(make, tmp_path):
    """The clock of the camera is set back by an hour: the camera is found in the map, which goes on."""
    bench = make(map__autosave=True, map__folder=str(tmp_path / "maps"))
    bench.play(lap().frames[:SHORT])
    before = bench.node.slam.solution
    assert len(before) > 0
    bench.play([moved(frame, -HOUR / SECOND) for frame in lap().frames[SHORT:LONG]])
    assert bench.logged("a submap begins: /image: stamps jumped back by 3599.8")
    assert bench.counts["late"] == 1, "the first image of the jump waits for the second"
    after, status = bench.node.slam.solution, bench.status_now()
    assert (status["resets"], status["interruptions"]) == ("0", "1")
    assert set(before.ids) < set(after.ids) and after.stamps[-1] < before.stamps[0]
    assert status["submaps"] == "1", "the windows after the jump are found in the map"
    poses = np.where(after.stamps < before.stamps[0], after.stamps + HOUR, after.stamps)
    assert trajectory_error(poses, after.map_camera, lap())[0] < 0.05
    saved = load_map(tmp_path / "maps" / "map_autosave")
    assert set(before.ids) <= set(saved.keyframe_id) < set(after.ids)


def test_in_simulated_time_a_bag_that_loops_resets_the_map(make):
    bench = make(use_sim_time=True)
    bench.play(lap().frames[:SHORT])
    assert len(bench.node.slam.solution) > 0
    assert bench.spin(lambda: "nothing came on /clock" in bench.node.transforms.clock_mismatch)
    bench.play(lap().frames[:1])
    assert bench.logged("the map is reset: /image: stamps jumped back by 2.40 s")
    assert len(bench.node.slam.solution) == 0
    bench.play(lap().frames[1:SHORT])
    assert len(bench.node.slam.solution) >= 5
    assert bench.status_now()["resets"] == "1"


def test_the_map_is_saved_before_a_reset_and_at_cleanup(make, tmp_path):
    bench = make(map__autosave=True, map__folder=str(tmp_path / "maps"))
    bench.play(lap().frames[:SHORT])
    before = bench.node.slam.solution
    assert bench.call("reset").success
    saved = tmp_path / "maps" / "map_autosave"
    np.testing.assert_array_equal(load_map(saved).keyframe_id, before.ids)
    bench.play(lap().frames[SHORT:LONG])
    after = bench.node.slam.solution
    assert len(after) > 0
    bench.node.trigger_deactivate()
    bench.node.trigger_cleanup()
    assert set(after.ids) <= set(load_map(saved).keyframe_id) and before.ids[0] not in load_map(saved).keyframe_id


def seen_by_another_camera(begin, end, intrinsics, size):
    """Return images of the lap, of another focal length or size."""
    return [replace(frame, image=oracle().scene.render(pose, intrinsics, size)[0], intrinsics=intrinsics)
            for frame, pose in zip(lap().frames[begin:end], lap().world_camera[begin:end], strict=True)]


@pytest.mark.parametrize("change", ["focal length", "size"])
def test_the_map_goes_on_with_a_new_calibration(make, change):
    """The focus moves, or the driver changes the resolution: each keyframe has its own intrinsics."""
    bench, first = make(), lap().frames[0]
    bench.play(lap().frames[:SHORT])
    before = bench.node.slam.solution
    size = (320, 240) if change == "focal length" else (480, 360)
    matrix = first.intrinsics.copy()
    matrix[:2] *= size[0] / 320
    matrix[[0, 1], [0, 1]] *= 1.02
    matrix[:2, 2] = (np.array(size) - 1) / 2
    later = seen_by_another_camera(SHORT + 1, LONG, matrix, size)
    bench.info(later[0])
    if change == "size":
        bench.image(lap().frames[SHORT])  # on its way since before the change: its calibration is still known
    bench.play(later)
    after, status = bench.node.slam.solution, bench.status_now()
    assert (status["resets"], status["interruptions"], status["images recalibrated"]) == ("0", "0", "1")
    assert status["submaps"] == "1" and set(before.ids) < set(after.ids)
    assert status["images refused"] == "0" and bench.logged("the map goes on")
    widths = {keyframe.depth.shape for keyframe in after.keyframes.values()}
    assert len(widths) == 1
    old, new = (after.keyframes[int(after.ids[row])].intrinsics for row in (0, -1))
    assert new[0, 0] == pytest.approx(1.02 * old[0, 0], rel=1e-3)
    assert trajectory_error(after.stamps, after.map_camera, lap())[0] < 0.02


def test_what_was_mapped_with_an_assumed_calibration_does_not_go_on(make):
    bench = make(camera__info_timeout=0.0, camera__fov=100.0)
    bench.node.source._intake = Intake()
    bench.play(lap().frames[:8])
    bench.info(lap().frames[0])
    bench.image(lap().frames[8])
    assert bench.logged("a submap begins: /camera_info: the calibration changed", "until now it was assumed")
    assert bench.node.monitor.resets == 0


def test_images_without_stamps_are_reported(make):
    bench = make()
    for frame in lap().frames[:2]:
        bench.image(frame, header=messages.header(0, CAMERA))
    assert bench.counts["late"] == 1 and bench.logged("/image", "has the stamp of the one before")


def test_order_of_stamps():
    """Each step in seconds after the image before, and what it is; the limit is 1 s."""
    for steps, expected, simulated in (
            ((0, 0.1, -0.05, 0.0, -0.9, 0.1), "NNLLLN", False),
            ((0, 0.1, -5, -4.9, -4.8), "NNLJN", False),
            ((0, 0.1, -5, 0.2, -5, 0.3), "NNLNLN", False),
            ((0, 0.1, 1e8, 0.2, 1e8, 1e8 + 0.1), "NNLNLN", False),
            ((0, 0.1, -5, -4.9, -4.95), "NNJNL", True),
            ((0, 0.1, 500, 501), "NNNN", True)):
        check, names = StampCheck(1.0), {Order.NEXT: "N", Order.LATE: "L", Order.JUMP: "J"}
        last, found = 10**18, ""
        for step in steps:
            stamp = 10**18 + round(step * SECOND) if abs(step) >= 2 or step == 0.2 or step == 0.3 else \
                last + round(step * SECOND)
            order = check.check(stamp, None if simulated else time.monotonic(), simulated)
            found += names[order]
            last = stamp if order is not Order.LATE else last
        assert found == expected, (steps, found)
