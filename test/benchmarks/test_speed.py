"""benchmark speed: costs of `replay` in two states of the repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from paths import ROOT

from vggt_ros.benchmarks.speed.image_folders import write_folder
from vggt_ros.benchmarks.speed.replay import SpeedError, checked_out, speed
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.synthetic import RenderedSequence, orbit, pinhole, room

in_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")


def worktrees() -> str:
    """Return what git says of its worktrees."""
    return subprocess.run(["git", "-C", str(ROOT), "worktree", "list"], capture_output=True, text=True,
                          check=True).stdout


@in_git
def test_a_revision_is_checked_out_and_removed() -> None:
    before = worktrees()
    with checked_out("HEAD") as tree:
        assert (tree / "dev" / "executable.py").exists()
    assert not tree.exists()
    assert worktrees() == before
    with pytest.raises(SpeedError, match="no-such-revision"), checked_out("no-such-revision"):
        pass


@in_git
def test_a_missing_sequence_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGGT_ROS_DATA", str(tmp_path))
    with pytest.raises(SpeedError, match="nowhere"):
        speed(["nowhere"], "HEAD")


@in_git
@pytest.mark.slow
def test_a_state_costs_as_much_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEAD against the working tree, on a few rendered images: the same result, about the same cost."""
    monkeypatch.setenv("VGGT_ROS_DATA", str(tmp_path))
    (tmp_path / "orbit").mkdir()
    for number, world_camera in enumerate(orbit(60)[:30]):
        image = room().render(world_camera, pinhole(320, 240), (320, 240))[0]
        cv2.imwrite(str(tmp_path / "orbit" / f"{number}.png"), image[..., ::-1])
    runs = speed(["orbit"], "HEAD")["sequences"]["orbit"]
    before, now = runs["before"][0], runs["now"][0]
    assert before["images"] == now["images"] == 30
    assert 0.5 < now["cpu_s"] / before["cpu_s"] < 2
    assert 50 < now["memory_mb"] < 4000
    assert np.isnan(now["ate_m"])


def test_a_rendered_sequence_is_written_as_a_folder(tmp_path: Path) -> None:
    sequence = RenderedSequence("orbit", room(), orbit(60)[:2], (64, 48))
    write_folder(sequence, tmp_path / "orbit")
    read = open_sequence(tmp_path / "orbit")
    assert read.assumptions == ()
    np.testing.assert_allclose(read.camera.intrinsics, sequence.camera.intrinsics, atol=1e-6)
    for (stamp, image), (read_stamp, read_image) in zip(sequence, read, strict=True):
        assert stamp == read_stamp
        np.testing.assert_array_equal(image, read_image)
    assert read.truth is not None
    np.testing.assert_array_equal(read.truth[0], sequence.truth[0])
    np.testing.assert_allclose(read.truth[1], sequence.truth[1], atol=1e-6)
