"""Windows of what the real VGGT-1B said of real images: placed, refined, and compared with COLMAP."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_folder import DATA

torch = pytest.importorskip("torch", reason="torch is not installed")

from vggt_ros.benchmarks.accuracy.recorded import (
    RecordingError,
    common_content,
    content,
    keyframes,
    load_runs,
    output,
    read_images,
    read_intrinsics,
    read_reference,
    walk,
)
from vggt_ros.benchmarks.accuracy.recorded_report import compare, fused_poses, recorded
from vggt_ros.cli.benchmark import main
from vggt_ros.config import Config

RECORDED = DATA.parent / "vggt_recorded"
pytestmark = pytest.mark.skipif(not (RECORDED / "kitchen").is_dir(), reason=f"{RECORDED} is not there")


def test_the_kitchen_is_placed_and_refined(capsys: pytest.CaptureFixture[str]) -> None:
    """All windows are placed; bounds of the network's own windows are those of one inference over all images."""
    figures, within = recorded(RECORDED / "kitchen", (0.26, 0.163))
    rows = {row["name"]: row for row in figures["rows"]}
    assert all(row["placed"] == row["windows"] and row["solved"] == row["images"] for row in rows.values())
    assert rows["run_a and run_b in turn"]["centers"] <= 1.0
    assert rows["run_a and run_b in turn"]["rotation"] <= 0.40
    # VGGT and bundle adjustment as published: 0.26 % and 0.13 degrees. The rotations are not met: docs say why.
    assert within, capsys.readouterr().out
    assert rows["run_a, refined"]["rotation"] < 0.7 * rows["run_a"]["rotation"]


def test_a_room_that_hardly_overlaps_agrees_with_itself_in_another_order() -> None:
    """The network itself, given the images in another order: 2.0 degrees and 23 % of the extent (README.md there)."""
    run, = load_runs(RECORDED / "room").values()
    config = Config().replace({"map.kept_width": 100})
    forth = read_images(RECORDED / "room", list(run.names))
    poses = []
    for images in (forth, dict(reversed(forth.items()))):
        found, windows, placed = fused_poses([run], images, True, config)
        assert placed == windows
        assert found.keys() == forth.keys()
        poses.append(found)
    centers, rotation, _ = compare(*poses)
    assert centers < 0.5 * 23
    assert rotation < 0.5 * 2.0


def test_the_raw_output_is_what_was_recorded() -> None:
    """Depth is where the padded image has it, the field of view is the image's, poses are as they were."""
    folder = RECORDED / "kitchen"
    run = load_runs(folder)["run_a"]
    image, = read_images(folder, list(run.names[:1])).values()
    part = left, top, width, height = common_content([image.size])
    assert part == (0, 87, 518, 344)  # the image reaches from 85.78 to 431.55
    assert (image.crop(part).max(2) > 0).mean() > 0.99
    assert common_content([image.size, image.size[::-1]]) == (0, 0, 518, 518)
    raw = output(run, run.names[1:3], (left, top, width, height))
    mine = run.frame == 2
    x, y = (run.pixel[mine] - [left, top]).T
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    np.testing.assert_array_equal(raw.depth[1][y[inside], x[inside]], run.depth[mine][inside].astype(np.float32))
    assert np.isfinite(raw.depth[1]).sum() == len(set(zip(x[inside].tolist(), y[inside].tolist(), strict=True)))
    np.testing.assert_allclose(raw.pose_enc[0, :3], run.extrinsic[1, :, 3], atol=1e-6)
    assert width / 2 / np.tan(raw.pose_enc[0, 8] / 2) == pytest.approx(run.intrinsic[1, 0, 0], rel=1e-5)


def test_pixels_depth_and_intrinsics_are_of_one_grid(tmp_path: Path) -> None:
    """Points of a scene, drawn into an image of odd size, are seen where the intrinsics say; so is its middle."""
    points = np.array([[-0.4, -0.2], [0.0, 0.0], [0.35, 0.25], [0.1, -0.28]])
    matrix = np.array([[808.3, 0, 389.0], [0, 808.3, 259.5], [0, 0, 1]])
    x, y = np.meshgrid(np.arange(779), np.arange(520))
    drawn = np.zeros((520, 779))
    for at in points * 808.3 + matrix[:2, 2]:
        drawn += 250 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 18)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.repeat(drawn[..., None], 3, 2))
    (tmp_path / "colmap.txt").write_text("a.png 808.3 808.3 389.5 260 779 520 0\n")
    seen = read_images(tmp_path, ["a.png"])["a.png"]
    found = read_intrinsics(tmp_path / "colmap.txt")["a.png"]
    part = content(779, 520)
    gray = seen.crop(part)[..., 0].astype(float)
    rows, columns = np.indices(gray.shape)
    for at in points * found[[0, 1], [0, 1]] + found[:2, 2]:
        weight = gray * (np.hypot(columns - at[0], rows - at[1]) < 10)
        center = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
        np.testing.assert_allclose(center, at, atol=0.02)
    assert found[0, 0] == found[1, 1] == pytest.approx(808.3 * 518 / 779)
    keyframe, = keyframes([seen], part)
    np.testing.assert_allclose(keyframe.intrinsics[:2, 2], found[:2, 2], atol=1e-9)


def test_a_walk_is_a_cycle_and_comparison_ignores_the_frame() -> None:
    reference = read_reference(RECORDED / "kitchen" / "colmap.txt")
    order = walk(reference)
    assert sorted(order) == sorted(reference)
    moved = np.eye(4)
    moved[:3, 3] = 1.0, -2.0, 0.5
    scaled = {name: pose @ moved for name, pose in reference.items()}
    centers, rotation, _ = compare(scaled, reference)
    assert centers < 1e-6
    assert rotation < 1e-5


def test_a_folder_that_lacks_something_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecordingError, match=r"run_\*\.npz"):
        recorded(tmp_path)
    (tmp_path / "run_a.npz").write_bytes(b"not an archive")
    with pytest.raises(RecordingError, match=r"run_a\.npz"):
        recorded(tmp_path)
    shutil.copy(RECORDED / "kitchen" / "run_a.npz", tmp_path)
    assert main(["recorded", str(tmp_path)]) == 1
    assert "colmap.txt" in capsys.readouterr().err
    (tmp_path / "colmap.txt").write_text("a.png 1 2 3\n")
    with pytest.raises(RecordingError, match="line 1"):
        recorded(tmp_path)
