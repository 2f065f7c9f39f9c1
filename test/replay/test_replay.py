from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from data_folder import recorded

from vggt_ros.benchmarks.disturbances import Disturbed
from vggt_ros.cli.replay import main
from vggt_ros.config import Config
from vggt_ros.evaluation.errors import depth_accuracy
from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import pose, so3_exp, umeyama
from vggt_ros.odometry.solved_focal import FrameIntrinsics
from vggt_ros.replay.output import report, save, write, write_depth
from vggt_ros.replay.run import run
from vggt_ros.sequences.image_folder import ImageFolder
from vggt_ros.sequences.intake import darkness
from vggt_ros.storage.files import read_ply, read_trajectory
from vggt_ros.storage.map_folder import load_map
from vggt_ros.synthetic import OracleNoise, RenderedSequence, SceneReconstructor, laps, room
from vggt_ros.windows.frame import Frame
from vggt_ros.workers.local import LocalWorker
from vggt_ros.workers.pool import Pool

SCENE = room(texel=0.008)


@pytest.fixture(scope="module")
def sequence():
    return RenderedSequence("room", SCENE, laps(110, laps=0.5), size=(320, 240))


@pytest.fixture(scope="module")
def result(sequence):
    return run(sequence, Config(), SceneReconstructor(SCENE, *sequence.truth))


def test_exact_windows_give_an_exact_trajectory(result):
    figures = report(result)
    assert figures["ate_rmse_m"] < 2e-3
    assert figures["coverage"] > 0.95 and figures["submaps"] == 1
    assert figures["images"] == 110 and figures["images_per_keyframe"] < 6
    assert figures["settings"]["windows.size"] == 8


def test_every_image_after_the_first_window_is_located_and_compared(result):
    figures = report(result)
    assert figures["frames_located"] == 1.0
    assert figures["frames_ate_rmse_m"] < 5e-3 and figures["frames_rpe_1s_m"] < 0.01
    assert 0 < figures["frames_rpe_1s_deg"] < 0.5 and figures["odometry_rpe_1s_m"] < 0.05
    assert figures["frames_ate_to_keyframes"] == pytest.approx(figures["frames_ate_rmse_m"] / figures["ate_rmse_m"])
    blind = dataclasses.replace(result, frames=[
        tracked if index % 2 else dataclasses.replace(tracked, reference=None, keyframe=None)
        for index, tracked in enumerate(result.frames)])
    assert 0.4 < report(blind)["frames_located"] < 0.6


class FindsTheFocalLength(SceneReconstructor):
    """The oracle of a camera without a calibration: it says the true intrinsics, whatever is assumed."""

    def __init__(self, sequence):
        super().__init__(SCENE, *sequence.truth)
        self.intrinsics = sequence.camera.intrinsics

    def reconstruct(self, window):
        return super().reconstruct(dataclasses.replace(window, keyframes=tuple(
            dataclasses.replace(keyframe, intrinsics=self.intrinsics) for keyframe in window.keyframes)))


def test_images_before_the_first_window_take_the_focal_length_that_it_finds(sequence):
    """Whose tracks were followed with a field of view of 90 degrees assumed, where it is 65."""
    uncalibrated = Disturbed(sequence, camera=Camera.assumed(320, 240, 90.0))
    figures = report(run(uncalibrated, Config(), FindsTheFocalLength(sequence)))
    assert figures["frames_located"] == 1.0 and figures["frames_ate_rmse_m"] < 5e-3
    assert figures["focal_px"] == pytest.approx(sequence.camera.intrinsics[0, 0])
    assert figures["field_of_view_deg"] == pytest.approx(65.0)


@pytest.mark.parametrize(("images", "words"), [
    ([0], "one image shows no depth"),
    ([0] * 12, "the camera stood still.*28 px.*sideways"),
    ([None] * 12, "most images are dark"),
    ([-1] * 12, "nothing in the images could be followed")])
def test_a_run_without_a_map_says_what_was_lacking(sequence, tmp_path, capsys, images, words):
    pictures = {index: image for index, (_, image) in enumerate(sequence) if index in images}
    pictures |= {None: np.zeros((240, 320, 3), np.uint8), -1: np.full((240, 320, 3), 128, np.uint8)}
    for number, index in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{number}.png"), pictures[index])
    assert main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert re.search(f"no map: {words}", capsys.readouterr().err)


def test_dark_images_that_were_tracked_are_not_said_to_be_lost():
    """The room by night, and at the end behind a cover."""
    def night(image, index):
        return np.zeros_like(image) if index >= 45 else (image * 0.08).astype(np.uint8)

    sequence = RenderedSequence("room", SCENE, laps(110, laps=0.5)[:50], size=(320, 240))
    result = run(Disturbed(sequence, night), Config(), SceneReconstructor(SCENE, *sequence.truth))
    assert all(darkness(image) for _, image in Disturbed(sequence, night))
    lost = sum(tracked.map_camera is None for tracked in result.frames)
    assert report(result)["dark_images"] == lost and 5 <= lost < 10


def test_stamps_that_do_not_increase_are_named_as_the_reason(sequence, tmp_path, capsys):
    (tmp_path / "rgb.txt").write_text("".join(f"0.0 {number}.png\n" for number in range(5)))
    for number, (_, image) in zip(range(5), sequence, strict=False):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    assert main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "no map: only one of 5 images has a time of its own" in capsys.readouterr().err


def test_a_map_that_is_not_there_is_not_saved_and_the_reason_is_said(tmp_path, capsys):
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((240, 320, 3), np.uint8))
    assert main([str(tmp_path), "--output", str(tmp_path / "out"), "--save", str(tmp_path / "map")]) == 2
    printed = capsys.readouterr()
    assert "no map: most images are dark" in printed.err
    assert "no map is saved" in printed.out
    assert not (tmp_path / "map").exists()
    assert (tmp_path / "out" / "report.json").exists()


def test_an_interrupted_run_is_that_of_the_images_before(sequence):
    count = 60
    asked = itertools.count()
    interrupted = run(sequence, Config(), SceneReconstructor(SCENE, *sequence.truth), stop=lambda: next(asked) >= count)
    start = RenderedSequence("room", SCENE, laps(110, laps=0.5)[:count], size=(320, 240))
    whole = run(start, Config(), SceneReconstructor(SCENE, *start.truth))
    assert (interrupted.interrupted, whole.interrupted) == (True, False)
    assert report(interrupted)["images"] == count
    assert len(interrupted.slam.solution) > 8
    assert np.array_equal(interrupted.slam.solution.map_camera, whole.slam.solution.map_camera)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_results_so_far_are_written_at_an_interrupt(tmp_path, number):
    """A process of its own, whose images show nothing, so that it is quick; it is interrupted in their middle."""
    flat = cv2.imencode(".png", np.full((480, 640, 3), 128, np.uint8))[1].tobytes()
    for index in range(500):
        (tmp_path / f"{index}.png").write_bytes(flat)
    program = ("import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
               "from vggt_ros.cli.replay import main; sys.exit(main())")
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), "--output", str(tmp_path / "out")],
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    said = b""
    while b"/500 [" not in said or b" 0/500" in said[-60:]:
        part = os.read(process.stderr.fileno(), 65536)
        assert part, said.decode()
        said += part
    process.send_signal(number)
    said += process.communicate()[1]
    assert process.returncode == 130, said.decode()
    assert b"Traceback" not in said
    assert b"interrupted after " in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["interrupted"]
    assert 0 < report["images"] < 500


def test_an_interrupt_after_the_last_image_ends_what_called_replay_too(tmp_path, monkeypatch):
    """Such as a loop of the shell; nothing is lost."""
    cv2.imwrite(str(tmp_path / "0.png"), np.full((48, 64, 3), 128, np.uint8))

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return write(*arguments)

    monkeypatch.setattr("vggt_ros.cli.replay.write", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
    try:
        assert main([str(tmp_path), "--output", str(tmp_path / "out")]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "out" / "report.json").exists()


def test_what_the_reconstructor_waits_for_is_said_once_and_can_be_interrupted(tmp_path, capsys, monkeypatch):
    cv2.imwrite(str(tmp_path / "0.png"), np.full((48, 64, 3), 128, np.uint8))

    def never_loaded(config, progress):
        for percent in range(100):
            progress(f"waiting for the server, {percent} %")
            if percent == 50:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("vggt_ros.replay.run.create_reconstructor", never_loaded)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main([str(tmp_path), "--output", str(tmp_path / "out")]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr().err
    assert said.count("waiting for the server") == 1 and "replay: interrupted" in said


@pytest.mark.parametrize("option", ["--output", "--save"])
def test_where_results_cannot_be_written_no_work_is_begun(tmp_path, capsys, option):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/0.png"), np.zeros((240, 320, 3), np.uint8))
    (tmp_path / "file").write_text("mine")
    arguments = {"--output": str(tmp_path / "out"), option: str(tmp_path / "file")}
    assert main([str(tmp_path / "images"), *(word for pair in arguments.items() for word in pair)]) == 1
    printed = capsys.readouterr()
    assert str(tmp_path / "file") in printed.err and "images" not in printed.out
    assert (tmp_path / "file").read_text() == "mine"


def test_all_files_are_written_with_exact_stamps(result, sequence, tmp_path):
    (tmp_path / "trajectory_7.txt").write_text("of an older run")
    write(result, tmp_path, depth=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "depth", "frames.txt", "map.ply", "map.png", "map_above.png", "report.json", "trajectory.png", "trajectory.txt"]
    stamps, poses = read_trajectory(tmp_path / "trajectory.txt")
    given = set(sequence.truth[0].tolist())
    assert set(stamps.tolist()) <= given and len(stamps) == len(result.slam.solution)
    frames, _ = read_trajectory(tmp_path / "frames.txt")
    assert frames.tolist() == sequence.truth[0].tolist()  # those before the first window are located when it is solved
    assert np.allclose(poses[0], np.eye(4), atol=1e-6)  # the world is the first camera's frame
    assert len(read_ply(tmp_path / "map.ply")) > 5000
    assert json.loads((tmp_path / "report.json").read_text())["keyframes"] == len(stamps)
    for name in ("trajectory.png", "map.png", "map_above.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert min(picture.shape[:2]) > 700 and picture.std() > 5
    depth = depth_accuracy(tmp_path / "depth", sequence.depths(), sequence.camera)
    assert depth.keyframes == len(stamps) and depth.confident < 0.01 and depth.known > 0.95


def error(run_, stamps_poses, world_map):
    """RMSE of positions against the run's truth, meters, after a given similarity."""
    rows = np.searchsorted(run_.sequence.truth[0], stamps_poses[0])
    there = world_map.apply(stamps_poses[1][:, :3, 3]) - run_.sequence.truth[1][rows, :3, 3]
    return float(np.sqrt((there**2).sum(1).mean()))


def test_localization_in_a_saved_map_and_continuing_it(sequence, tmp_path):
    """On another trajectory, backwards: errors like those of the map, in its frame, and no new keyframe."""
    noise = OracleNoise(scale=0.5, rotation=0.002, translation=0.002, depth=0.02)
    mapped = run(sequence, Config(), SceneReconstructor(SCENE, *sequence.truth, noise))
    save(mapped, tmp_path / "map")
    loaded = load_map(tmp_path / "map")
    beside = pose(so3_exp(np.array([0.0, 0.05, 0.02])), np.array([0.05, -0.03, 0.04]))
    other = RenderedSequence("back", SCENE, (laps(110, laps=0.5) @ beside)[70:20:-1], size=(320, 240))
    located = run(other, Config(mode="localization"), SceneReconstructor(SCENE, *other.truth), loaded=loaded)
    figures = report(located)
    assert figures["images_located"] > 0.9 * len(other) and figures["keyframes"] == 0
    assert figures["keyframes_loaded"] == len(mapped.slam.solution) == len(located.slam.solution)
    trajectory = mapped.frame_trajectory(0)
    rows = np.searchsorted(sequence.truth[0], trajectory[0])
    world_map = umeyama(trajectory[1][:, :3, 3], sequence.truth[1][rows, :3, 3])
    assert error(located, located.trajectory(0), world_map) < 1.5 * error(mapped, trajectory, world_map)
    grown = run(other, Config(), SceneReconstructor(SCENE, *other.truth, noise), loaded=loaded)
    figures = report(grown)
    assert figures["keyframes"] > 5 and figures["submaps"] == 1
    assert np.array_equal(grown.slam.solution.ids[:len(loaded)], loaded.keyframe_id)
    assert len(grown.trajectory(0)[0]) == figures["keyframes"]
    write_depth(grown, tmp_path / "depth")
    assert len(list((tmp_path / "depth").iterdir())) == figures["keyframes"]


def test_localization_where_the_map_has_nothing_says_so_and_claims_no_focal_length(sequence, tmp_path, capsys):
    save(run(sequence, Config(), SceneReconstructor(SCENE, *sequence.truth)), tmp_path / "map")
    rng = np.random.default_rng(3)
    for number in range(3):
        noise = cv2.resize(rng.integers(0, 255, (24, 32, 3), np.uint8), (320, 240))
        cv2.imwrite(str(tmp_path / f"{number}.png"), noise)
    out = tmp_path / "out"
    assert main([str(tmp_path), "--output", str(out), "--load", str(tmp_path / "map"),
                 "--set", "mode=localization"]) == 2
    assert "not located: no image was found in the loaded map" in capsys.readouterr().err
    assert json.loads((out / "report.json").read_text())["focal_px"] is None


def test_a_camera_of_another_shape_does_not_take_the_focal_length_of_the_map(result):
    """Half a camera of the map's shape does."""
    image = {size: np.zeros((size[1], size[0], 3), np.uint8) for size in ((320, 240), (240, 320), (160, 120))}
    solved = result.sequence.camera.intrinsics[0, 0]
    for size, expected in (((320, 240), solved), ((160, 120), solved / 2), ((240, 320), 111.0)):
        frame = Frame(0, image[size], np.array([[111.0, 0, 7], [0, 111, 8], [0, 0, 1]]), calibrated=False)
        assert FrameIntrinsics()(frame, result.slam.solution)[0, 0] == pytest.approx(expected, rel=0.02)


def test_the_camera_of_a_loaded_map_is_not_taken_for_this_one_without_a_word(sequence, result, caplog):
    """Until it has keyframes of its own, and then never."""
    image, solved = np.zeros((240, 320, 3), np.uint8), sequence.camera.intrinsics[0, 0]
    frame = Frame(0, image, np.array([[111.0, 0, 7], [0, 111, 8], [0, 0, 1]]), calibrated=False)
    intrinsics, loaded = FrameIntrinsics(), result.slam.solution
    for _ in range(2):
        assert intrinsics(frame, loaded, first_own=int(loaded.ids[-1]) + 1)[0, 0] == pytest.approx(solved, rel=0.02)
    assert caplog.text.count("is taken to be that of the loaded map, with a field of view of 65 degrees") == 1
    own = int(loaded.ids[-1])
    wide = dataclasses.replace(loaded.keyframes[own], intrinsics=loaded.keyframes[own].intrinsics * [[.5], [.5], [1.]])
    both = dataclasses.replace(loaded, keyframes={**loaded.keyframes, own: wide})
    assert intrinsics(frame, both, first_own=own)[0, 0] == pytest.approx(solved / 2, rel=0.02)


def test_maps_are_saved_and_loaded_by_the_command(tmp_path, capsys):
    assert main([".", "--output", str(tmp_path), "--set", "mode=localization"]) == 1
    assert "--load MAP" in capsys.readouterr().err
    assert main([".", "--output", str(tmp_path), "--load", str(tmp_path / "nowhere")]) == 1
    assert "no map is saved there" in capsys.readouterr().err


def test_one_seed_one_result(sequence):
    """With the CPU reconstructor, whose RANSAC and threads might differ from run to run."""
    short = RenderedSequence("room", SCENE, laps(110, laps=0.5)[:40], size=(640, 480))
    config = Config().replace({"reconstructor": "multiview", "seed": 3})
    first, second = run(short, config), run(short, config)
    assert len(first.slam.solution) > 8
    assert np.array_equal(first.slam.solution.stamps, second.slam.solution.stamps)
    assert np.allclose(first.slam.solution.map_camera, second.slam.solution.map_camera, rtol=0, atol=1e-6)
    assert report(first)["ate_percent_of_path"] < 3


def test_an_interrupt_while_the_map_is_adjusted_leaves_it_as_it_was():
    short, seen = RenderedSequence("room", SCENE, laps(110, laps=0.5)[:40], size=(640, 480)), []
    done = run(short, Config().replace({"reconstructor": "multiview"}), on_frame=lambda *_: seen.append(1),
               stop=lambda: len(seen) == len(short))
    assert not done.interrupted and len(done.slam.solution) > 8
    assert report(done)["adjusted"].endswith("replay was interrupted")


def test_rejected_windows_begin_a_submap_that_is_written_to_files_of_its_own(sequence, tmp_path):
    noise = OracleNoise(scale=0)
    refusing = SceneReconstructor(SCENE, *sequence.truth, noise, refuse=[2, 3, 4])
    figures = write(run(sequence, Config(), refusing), tmp_path)
    assert figures["refusals"] and "window 2" in figures["refusals"][0]
    total = sum(len(read_trajectory(path)[0]) for path in tmp_path.glob("trajectory*.txt"))
    assert total == figures["keyframes"]
    assert len(list(tmp_path.glob("trajectory*.txt"))) == figures["submaps"]


@pytest.mark.parametrize(("arguments", "named"), [(["nowhere"], "nowhere"), ([".", "--set", "windows.size=1"],
                                                                             "windows.size"),
                                                  ([".", "--set", "nonsense=1"], "nonsense")])
def test_errors_name_bad_arguments(tmp_path, capsys, arguments, named):
    assert main([*arguments, "--output", str(tmp_path)]) == 1
    assert named in capsys.readouterr().err


def test_images_without_content_are_no_success(tmp_path, capsys):
    for index in range(12):
        cv2.imwrite(str(tmp_path / f"{index:02d}.png"), np.zeros((240, 320, 3), np.uint8))
    assert main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "assumed: " in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["keyframes"] == 0


class _Start(ImageFolder):
    """The first images of a folder."""

    def __init__(self, path, count):
        super().__init__(path)
        self._files = self._files[:count]
        self.truth = tuple(values[:count] for values in self.truth)


def test_a_recorded_sequence():
    result = run(_Start(recorded("kitti07_first160"), 50), Config())
    figures = report(result)
    # The car sets off slowly: the longest gaps between keyframes are many of its first steps, and count as gaps.
    assert figures["submaps"] == 1 and figures["coverage"] > 0.85
    assert figures["ate_percent_of_path"] < 2


@pytest.mark.parametrize(("back", "workers"), [(3600.0, False), (1.5, True)])
def test_after_a_jump_of_time_the_map_goes_on(back, workers):
    """As in the node; only the image at the jump is left out. Trajectories are in the order of time.

    An hour back, and so little that the times of both parts alternate.
    """
    sequence = RenderedSequence("room", SCENE, laps(110, laps=0.5)[20:64], size=(320, 240))
    stamps, poses = sequence.truth
    stamps[22:] -= round(back * 1e9) + 33_000_000
    oracle, config = SceneReconstructor(SCENE, *sequence.truth), Config().replace({"refine": "off"})
    pool = Pool(lambda: LocalWorker(config, lambda settings, report: (oracle, "oracle")), 1) if workers else None
    result = run(sequence, config, oracle, workers=pool)
    if pool is not None:
        pool.close()
        assert result.workers["corrections"] <= 1
    assert result.dropped_images == 1 and len(result.jumps) == 1 and f"to {stamps[23]} ns" in result.jumps[0]
    assert result.slam.counts.submaps == 1  # the camera was found again
    for found, located in (result.frame_trajectory(0), result.trajectory(0)):
        assert (np.diff(found) > 0).all()
        true = poses[[int(np.flatnonzero(stamps == stamp)[0]) for stamp in found]]
        by = umeyama(located[:, :3, 3], true[:, :3, 3])
        assert np.linalg.norm(by.apply(located[:, :3, 3]) - true[:, :3, 3], axis=1).max() < 0.02
    assert len(result.frame_trajectory(0)[0]) >= 39  # all but those after the last keyframe of either part


def test_images_out_of_order_are_left_out_and_counted():
    """As the node does: a bag keeps images in the order in which they arrived."""

    class Disordered(RenderedSequence):
        def __iter__(self):
            images = list(super().__iter__())
            return iter([*images[:6], images[3], images[5], *images[6:]])

    sequence = Disordered("room", SCENE, laps(110, laps=0.5)[:9], size=(320, 240))
    figures = report(run(sequence, Config(), SceneReconstructor(SCENE, *sequence.truth)))
    assert (figures["images"], figures["dropped_images"]) == (9, 2)
