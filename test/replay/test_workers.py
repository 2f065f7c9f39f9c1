"""Windows solved ahead by workers: the same results to the bit, whatever happens to the workers."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import threading
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from paths import ROOT
from worker_oracles import Recording, create

from vggt_ros.config import Config
from vggt_ros.replay.run import Run, run
from vggt_ros.settings import ConfigError
from vggt_ros.workers.local import LocalWorker
from vggt_ros.workers.pool import MAX_ATTEMPTS, Pool
from vggt_ros.workers.processes import ProcessWorker
from vggt_ros.workers.requests import Carried, Request, answer, fingerprint, plain

CONFIG = Config().replace({"refine": "off", "loops.min_gap": 8})
WHOLE, GAP = (70, range(0), 0), (95, range(50, 64), 42)
"""A recording, and one in which the camera is covered, and uncovered where it was before."""


@cache
def alone(chained: bool, recording: tuple = WHOLE) -> Run:
    """Return the results of one reconstructor in this process."""
    return run(Recording(*recording), CONFIG, create(CONFIG, None, chained, recording)[0])


def same(one: Run, other: Run) -> None:
    """Assert that two runs have the same results to the bit."""
    first, second = one.slam.solution, other.slam.solution
    for name in ("ids", "stamps", "submaps", "windows", "map_camera", "scale"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), strict=True)
    for k in first.ids.tolist():
        np.testing.assert_array_equal(first.keyframes[k].depth, second.keyframes[k].depth, strict=True)
    for frame, again in zip(one.frames, other.frames, strict=True):
        assert (frame.stamp, frame.state, frame.keyframe) == (again.stamp, again.state, again.keyframe)
        for pose, pose_again in ((frame.map_camera, again.map_camera), (frame.odom_camera, again.odom_camera)):
            np.testing.assert_array_equal(pose, pose_again)
    np.testing.assert_array_equal(one.slam.map_cloud().points, other.slam.map_cloud().points, strict=True)
    assert one.slam.counts == other.slam.counts and not other.failures


@pytest.mark.parametrize(("chained", "size"), [pytest.param(False, 1, marks=pytest.mark.slow), (False, 4),
                                               pytest.param(True, 1, marks=pytest.mark.slow), (True, 3)])
def test_any_number_of_workers_has_the_same_results(chained, size):
    pool = Pool(lambda: LocalWorker(CONFIG, partial(create, chained=chained, recording=WHOLE)), size)
    with_workers = run(Recording(*WHOLE), CONFIG, workers=pool)
    pool.close()
    same(alone(chained), with_workers)
    figures = with_workers.workers
    assert figures["workers"] == size and figures["corrections"] == 0
    assert figures["ahead"] == with_workers.slam.counts.windows  # every window was expected; only loops were not


@pytest.mark.parametrize("chained", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_forecast_that_is_wrong_changes_nothing(chained):
    """The camera is found again after it was covered: the tracker adds tracks by the map, which nobody can foresee."""
    assert alone(chained, GAP).slam.counts.lost > 0  # the test would show nothing otherwise
    pool = Pool(lambda: LocalWorker(CONFIG, partial(create, chained=chained, recording=GAP)), 2)
    with_workers = run(Recording(*GAP), CONFIG, workers=pool)
    pool.close()
    same(alone(chained, GAP), with_workers)
    assert with_workers.workers["corrections"] > 0


@pytest.mark.parametrize("chained", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_worker_that_is_killed_costs_one_window(chained, tmp_path):
    pool = Pool(lambda: ProcessWorker(CONFIG, partial(create, chained=chained, recording=WHOLE,
                                                        kill_file=str(tmp_path / "killed"))), 2)
    with_workers = run(Recording(*WHOLE), CONFIG, workers=pool)
    pool.close()
    assert (tmp_path / "killed").exists()
    same(alone(chained), with_workers)
    assert with_workers.workers["retries"] == 1
    # Nothing was solved twice but the window of the dead worker: every answer was used.
    assert pool.answered == with_workers.workers["ahead"] + with_workers.workers["unexpected"]


def test_processes_that_have_nothing_to_do_end_with_the_pool():
    with contextlib.closing(Pool(lambda: ProcessWorker(CONFIG, partial(create, recording=WHOLE)), 2)) as pool:
        pids = [worker.pid for worker in pool.workers if worker is not None]
        assert pids and all(Path("/proc", str(pid)).exists() for pid in pids)
    assert not any(Path("/proc", str(pid)).exists() for pid in pids)


@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_that_does_not_start_holds_up_nobody(fails):
    """Such as one for which a cluster has no room: as soon as it was given a request, that was never answered."""
    room, asked = threading.Event(), threading.Semaphore(0)

    def start():
        if threading.current_thread() is not threading.main_thread():
            asked.release()
            if fails:
                raise ConfigError("pycolmap is missing there")
            room.wait()
        return LocalWorker(CONFIG, partial(create, recording=WHOLE))

    windows = windows_of(Recording(30), chained=False)
    pool = Pool(start, 3)
    futures = [pool.submit(Request(plain(windows[0]), Carried())) for _ in range(6)]
    assert all(future.result(60).result() for future in futures)
    assert asked.acquire(timeout=60), "no other worker was asked for"
    room.set()
    pool.close()
    assert pool.answered == 6


@pytest.mark.slow
def test_a_window_that_kills_every_worker_is_lost_alone(tmp_path):
    pool = Pool(lambda: ProcessWorker(CONFIG, partial(create, recording=WHOLE, once=False,
                                                        kill_file=str(tmp_path / "killed"))), 1)
    lost = run(Recording(60), CONFIG, workers=pool)
    pool.close()
    assert len(lost.failures) == 1 and "window 3" in lost.failures[0] and pool.retries == MAX_ATTEMPTS
    assert len(lost.slam.solution) > 20


def windows_of(recording, chained):
    """Return all windows that a plain replay has reconstructed, those around loops included."""
    windows, reconstructor = [], create(CONFIG, None, chained, WHOLE)[0]
    reconstruct = reconstructor.reconstruct
    reconstructor.reconstruct = lambda window: (windows.append(window), reconstruct(window))[1]
    run(recording, CONFIG, reconstructor)
    return windows


def test_results_do_not_depend_on_which_windows_a_worker_solved_before():
    """The same request has the same answer in a new worker, and in one that solved others."""
    windows = windows_of(Recording(60), chained=True)
    used, carried = create(CONFIG, None, True, WHOLE)[0], Carried()
    for _, window in sorted({window.id: window for window in windows[::-1]}.items()):  # not those around loops
        request = Request(plain(window), carried)
        new = create(CONFIG, None, True, WHOLE)[0]
        one, other = answer(used, request, (0.0, -1)), answer(new, request, (0.0, -1))
        np.testing.assert_array_equal(one.result().window_camera, other.result().window_camera)
        answer(used, Request(plain(windows[-1]), Carried()), (0.0, -1))
        assert one.carried is not None
        carried = one.carried


def test_the_tracker_s_poses_are_not_part_of_a_request():
    windows = windows_of(Recording(40), chained=False)
    first = windows[0].keyframes[0]
    moved = replace(windows[0], keyframes=(replace(first, map_camera=np.eye(4)), *windows[0].keyframes[1:]))
    assert fingerprint(moved) == fingerprint(windows[0])
    assert all(keyframe.map_camera is None for keyframe in plain(moved).keyframes)
    darker = replace(windows[0], keyframes=(replace(first, image=first.image // 2), *windows[0].keyframes[1:]))
    assert fingerprint(darker) != fingerprint(windows[0])


def test_a_reconstructor_that_does_not_say_what_it_carries_is_refused():
    def silent(config, progress):
        reconstructor, reason = create(config, progress)
        reconstructor.carries = ""
        return reconstructor, reason

    with pytest.raises(ConfigError, match="carries"):
        Pool(lambda: LocalWorker(CONFIG, silent), 2)


@pytest.mark.slow
def test_multiview_in_processes_is_the_same_to_the_bit(monkeypatch):
    """What it carries (local map, lens, readout time) goes from process to process."""
    from threadpoolctl import threadpool_limits
    config = Config().replace({"reconstructor": "multiview", "refine": "off"})
    with threadpool_limits(limits=1, user_api="blas"):
        in_one = run(Recording(60), config)
        pool = Pool(lambda: ProcessWorker(config), 2)
        with_workers = run(Recording(60), config, workers=pool)
        pool.close()
    assert in_one.slam.counts.windows >= 4
    same(in_one, with_workers)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: requirements-cluster.txt")
def test_a_cluster_has_the_same_results_and_survives_an_actor(monkeypatch):
    from vggt_ros.workers.ray_cluster import RayWorker, connect
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "test" / "support")]))
    ray = connect("local")
    try:
        pool = Pool(lambda: RayWorker(ray, CONFIG, create=partial(create, chained=True, recording=WHOLE)), 2)
        killed = []

        def kill(slam, frame, tracked):
            if slam.counts.windows == 3 and not killed:
                killed.append(ray.kill(next(worker for worker in pool.workers if worker is not None).actor))

        with_workers = run(Recording(*WHOLE), CONFIG, workers=pool, on_frame=kill)
        pool.close()
    finally:
        ray.shutdown()
    same(alone(True), with_workers)
    assert killed


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: requirements-cluster.txt")
def test_an_address_without_a_cluster_is_named_at_once():
    from vggt_ros.workers.ray_cluster import connect
    with pytest.raises(ConfigError, match=r"--ray 127\.0\.0\.1:9: no cluster answers there"):
        connect("127.0.0.1:9")


def test_without_ray_the_option_says_how_to_install_it(monkeypatch, capsys, tmp_path):
    from vggt_ros.cli.replay import main
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "1.png"), np.zeros((48, 64, 3), np.uint8))
    assert main([str(tmp_path / "images"), "--output", str(tmp_path), "--ray", "auto"]) == 1
    assert "requirements-cluster.txt" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_a_folder_that_is_called_ray_is_not_ray(monkeypatch, tmp_path):
    """Where Ray ran, /tmp has one."""
    from vggt_ros.workers.ray_cluster import connect
    (tmp_path / "ray").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="requirements-cluster"):
        connect("auto")


def test_a_number_of_workers_that_cannot_be_is_refused(capsys, tmp_path):
    from vggt_ros.cli.replay import main
    assert main([str(tmp_path), "--output", str(tmp_path), "--workers", "0"]) == 1
    assert "--workers 0" in capsys.readouterr().err
