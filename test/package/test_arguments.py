"""What command lines refuse before any work begins: each text names the argument and what is right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from vggt_ros.cli import benchmark, check, evaluate, export, merge, parity, reconstruct, replay
from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera, Rectifier
from vggt_ros.images.mask import read_mask
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import SequenceError
from vggt_ros.settings import ConfigError


@pytest.fixture(name="folder")
def _folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), np.full((48, 64, 3), 40 * number, np.uint8))
    return tmp_path / "images"


@pytest.mark.parametrize(("command", "arguments", "words"), [
    (benchmark, ["accuracy", "--json", "OUT/none/x.json"], "none"),
    (benchmark, ["accuracy", "--json", "OUT"], "is a folder"),
    (benchmark, ["workers", "--workers", "0"], "'0' is not a whole number from 1 up"),
    (benchmark, ["memory", "--keyframes", "-3"], "'-3' is not a whole number"),
    (benchmark, ["live", "bag", "--rates", "0"], "'0' is not a positive number"),
    (replay, ["IMAGES", "--output", "OUT/x", "--rate", "1e-300"], "'1e-300' is not a positive number, from 1e-06 to"),
    (check, ["--json", "OUT/none/x.json"], "there is no folder"),
    (evaluate, ["a", "b", "--plot", "OUT/none/x.png"], "there is no folder"),
    (evaluate, ["a", "b", "--json", "OUT/none/x.json"], "there is no folder"),
    (benchmark, ["map", "--pictures", "IMAGES/0.png/x"], "0.png is a file, not a folder"),
    (reconstruct, ["IMAGES", "--output", "OUT/x", "--at-once", "0"], "'0' is not a whole number from 1 up")])
def test_arguments_are_refused_by_argparse(folder, capsys, command, arguments, words):
    with pytest.raises(SystemExit) as ended:
        command.main([word.replace("OUT", str(folder.parent)).replace("IMAGES", str(folder)) for word in arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("command", "arguments", "words"), [
    (replay, ["IMAGES", "--output", "OUT/x", "--image-topic", "/camera/image"], "a folder of images has no topics"),
    (replay, ["IMAGES", "--output", "OUT/x", "--depth-source"], "has no depth images"),
    (replay, ["LISTED", "--output", "OUT/x", "--rate", "30"], "takes no rate"),
    (replay, ["IMAGES", "--output", "OUT/x", "--calibration", "IMAGES"], "images: it is a folder; name a file"),
    (replay, ["VIDEO", "--output", "OUT/x", "--rate", "30"], "a video with times of its own takes no rate"),
    (check, ["--images", "OUT/none"], "none: no such file or folder"),
    (evaluate, ["--map", "OUT/none", "IMAGES"], "no ground truth")])
def test_what_a_recording_does_not_have_is_not_ignored(folder, capsys, command, arguments, words):
    listed = folder.parent / "listed"
    listed.mkdir()
    (listed / "rgb.txt").write_text("".join(f"{i} ../images/{i}.png\n" for i in range(3)))
    names = {"OUT": folder.parent, "IMAGES": folder, "LISTED": listed, "VIDEO": folder.parent / "film.avi"}
    if "VIDEO" in arguments:
        writer = cv2.VideoWriter(str(names["VIDEO"]), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
        if not writer.isOpened():
            pytest.skip("this OpenCV writes no video")
        for value in range(5):
            writer.write(np.full((48, 64, 3), 30 * value, np.uint8))
        writer.release()
    for name, path in names.items():
        arguments = [word.replace(name, str(path)) for word in arguments]
    assert command.main(arguments) == 1
    printed = capsys.readouterr()
    assert words in printed.err
    assert not printed.out, "it began to work"


@pytest.mark.parametrize(("command", "arguments", "words"), [
    (replay, ["IMAGES/0.png", "--output", "OUT/x"], "a single image; name the folder"),
    (replay, ["IMAGES", "--output", "IMAGES/0.png"], "it is a file; name a folder"),
    (replay, ["IMAGES", "--output", "IMAGES"], "images: it is the input, too"),
    (reconstruct, ["IMAGES", "--output", "IMAGES"], "images: it is the input, too"),
    (reconstruct, ["IMAGES/x.mp4", "--output", "OUT/x"], r"x\.mp4: not a photo but a recording, which `replay` takes"),
    (reconstruct, ["MAP", "--output", "OUT/x"], "no images in it .*; it is a saved map"),
    (replay, ["IMAGES", "--output", "MAP"], "a map is saved there, whose files are not overwritten"),
    (replay, ["IMAGES", "--output", "OUT/x", "--save", "IMAGES/0.png/m"], "no map can be saved there: .*is a file"),
    (merge, ["MAP", "IMAGES", "--output", "IMAGES/0.png/m"], "no map can be saved there: .*is a file"),
    (export, ["IMAGES/0.png", "--output", "OUT/x"], "it is a file; name the folder of a map")])
def test_what_is_of_another_kind_is_named(folder, capsys, command, arguments, words):
    kept = folder.parent / "map"
    kept.mkdir()
    (kept / "map.json").write_text("{}")
    names = {"OUT": folder.parent, "IMAGES": folder, "MAP": kept}
    for name, path in names.items():
        arguments = [word.replace(name, str(path)) for word in arguments]
    assert command.main(arguments) == 1
    assert re.search(words, capsys.readouterr().err)
    assert [file.name for file in kept.iterdir()] == ["map.json"]


@pytest.mark.parametrize("text", ["~no_such_user/x", ""])
@pytest.mark.parametrize(("command", "arguments"), [
    (replay, ["PATH", "--output", "x"]), (replay, ["x", "--output", "PATH"]),
    (replay, ["x", "--output=y", "--rrd=PATH"]), (evaluate, ["PATH", "x"]), (evaluate, ["--depth", "x", "PATH"]),
    (evaluate, ["x", "y", "--json", "PATH"]), (export, ["PATH", "--output", "x"]),
    (merge, ["x", "y", "--output", "PATH"]), (reconstruct, ["PATH", "--output", "x"]), (check, ["--images", "PATH"]),
    (parity, ["--recorded", "PATH"]), (benchmark, ["recorded", "PATH"]), (benchmark, ["map", "--pictures", "PATH"])])
def test_a_path_that_names_nothing_is_refused(tmp_path, monkeypatch, capsys, command, arguments, text):
    """An empty one, of a variable that is not set, would be the folder that one is in, and results spread there."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        command.main([word.replace("PATH", text) for word in arguments])
    assert ("is the home of no user" if text else "the path is empty") in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_path_that_leads_nowhere_is_refused(tmp_path, capsys):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path, words in ((tmp_path / "circle", "Symlink loop"), (tmp_path / ("x" * 300), "File name too long")):
        with pytest.raises(SystemExit):
            merge.main([str(path), "map", "--output", "x"])
        assert words in capsys.readouterr().err


def test_settings_and_functions_take_an_unknown_home_as_a_name(folder):
    with pytest.raises(ConfigError, match=r"camera\.mask: ~no_such_user/x is not a readable picture"):
        read_mask("~no_such_user/x", Rectifier(Camera.assumed(64, 48, 60), (64, 48)))
    with pytest.raises(SequenceError, match="~no_such_user/x: no such file or folder"):
        open_sequence("~no_such_user/x")


@pytest.mark.parametrize("name", ["path.xyz", "path", "path.jpg"])
def test_a_plot_is_a_picture_whatever_it_is_called(tmp_path, name):
    trajectory = tmp_path / "trajectory.txt"
    trajectory.write_text("".join(f"{i} {i} {i * i} 0 0 0 0 1\n" for i in range(5)))
    assert evaluate.main([str(trajectory), str(trajectory), "--plot", str(tmp_path / name)]) == 0
    assert cv2.imread(str(tmp_path / name)) is not None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, of Linux")
@pytest.mark.parametrize(("option", "words"), [("--plot", "/dev/full: No space left"),
                                               ("--json", "a file cannot be written: No space left")])
def test_a_full_disk_is_no_success(tmp_path, capsys, option, words):
    """OpenCV returns False, which is easily overlooked."""
    trajectory = tmp_path / "trajectory.txt"
    trajectory.write_text("".join(f"{i} {i} {i * i} 0 0 0 0 1\n" for i in range(5)))
    assert evaluate.main([str(trajectory), str(trajectory), option, "/dev/full"]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("name", "meant"), [
    ("windows.sise", "windows.size"), ("fov", "camera.fov"), ("vggt.weight", "vggt.weights"), ("zzz", "there are")])
def test_a_misspelled_setting_is_compared_with_those_that_there_are(name, meant):
    with pytest.raises(ConfigError, match=f"{name}: no such setting; .*{meant}"):
        Config().parse([f"{name}=1"])


def test_a_trajectory_of_another_time_and_a_file_that_is_none(tmp_path, capsys):
    for name, begin in (("early", 0), ("late", 100)):
        (tmp_path / name).write_text("".join(f"{begin + i} {i} 0 0 0 0 0 1\n" for i in range(5)))
    assert evaluate.main([str(tmp_path / "early"), str(tmp_path / "late")]) == 1
    assert "times from 0.00 to 4.00 s, the true ones times from 100.00 to 104.00 s" in capsys.readouterr().err
    (tmp_path / "report.json").write_text("{\n")
    assert evaluate.main([str(tmp_path / "report.json"), str(tmp_path / "late")]) == 1
    assert "line 1: expected `timestamp tx ty tz qx qy qz qw`" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["evaluate", "TRAJECTORY", "TRAJECTORY"], ["--help"]])
def test_an_output_that_nobody_reads_is_no_error(tmp_path, arguments):
    """As behind `| head`."""
    path = tmp_path / "trajectory.txt"
    path.write_text("".join(f"{i} {i} {i * i} 0 0 0 0 1\n" for i in range(5)))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run([sys.executable, "-m", "vggt_ros.cli.main",
                               *(word.replace("TRAJECTORY", str(path)) for word in arguments)], stdout=closed,
                              stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 141
    assert not done.stderr
