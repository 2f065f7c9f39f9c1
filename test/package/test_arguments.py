"""What command lines refuse before any work begins: each text names the argument and what is right."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest

from vggt_ros.cli import benchmark, check, evaluate, export, merge, reconstruct, replay
from vggt_ros.config import Config
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
