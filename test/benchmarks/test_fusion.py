"""Fusion of simulated windows: a part of `benchmark fusion`, and the scenes in which the published schemes fail."""

import json

import numpy as np
import pytest

from vggt_ros.benchmarks.fusion import comparison as fusion
from vggt_ros.benchmarks.fusion import trajectories
from vggt_ros.benchmarks.fusion.ours import Fusion
from vggt_ros.benchmarks.fusion.simulated_windows import Errors, WindowSimulator
from vggt_ros.cli.benchmark import main


def test_without_errors_every_scheme_equals_the_truth():
    """To 1e-3 of the path, except for centers where they are degenerate, which they are in neither scene."""
    for score in fusion.run_exact(windows=32):
        assert score.ate < 0.1, score  # percent
        assert score.rotation < 0.1 and score.covered == 1
        assert score.scheme in ("centers",) or score.taken == score.offered > 0


def test_false_loops_do_not_change_our_result_and_ruin_the_others(tmp_path, capsys):
    """A part of the table, by the command line: windows that are as exact as refined ones."""
    arguments = ["fusion", "--scenes", "refined", "--seeds", "2", "--windows", "40", "--false", "0", "1"]
    assert main([*arguments, "--json", str(tmp_path / "f.json"), "--picture", str(tmp_path / "f.png")]) == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    assert "ours, unverified" in capsys.readouterr().out
    assert (tmp_path / "f.png").stat().st_size > 10_000
    runs = {(r["seed"], r["false"], r["scheme"]): r for r in figures["runs"]}
    assert figures["ate_with_false_over_without_worst"] <= 1.1
    assert figures["true_loops_rejected"] <= 0.2
    assert figures["ate_over_rigid_median"]["refined"] < 1  # deformable windows reduce the error
    for seed in range(2):
        false = runs[seed, 1.0, "ours"]
        assert false["taken_false"] == 0 < false["offered_false"]
        for rival in ("dense", "sl4"):
            assert runs[seed, 1.0, rival]["ate"] > 2 * false["ate"]
            assert runs[seed, 0.0, "ours"]["ate"] < 1.15 * runs[seed, 0.0, rival]["ate"]
        rigid, told = runs[seed, 1.0, "rigid"], runs[seed, 1.0, "told"]  # how much knowing the true loops helps
        assert rigid["taken_false"] == 0 and told["ate"] < rigid["ate"] < 1.1 * runs[seed, 0.0, "dense"]["ate"]
        assert told["taken_false"] == 0 and runs[seed, 0.0, "ours"]["ate"] < 1.2 * told["ate"]


@pytest.mark.parametrize("name", ["straight", "turn", "planar", "dropped"])
def test_degenerate_trajectories_do_not_rotate_the_map(name):
    """Rotation of a window against the truth below one degree, or a rejection: a new submap, never silent.

    The windows have only errors that alignment must cope with; their non-rigid deformation is tested elsewhere.
    """
    make, _ = fusion.SCENES[name]
    errors = Errors(deformation_rotation=0.0, deformation_scale=0.0, focal=0.0, rotation=2e-4, translation=5e-4,
                    dropped=0.2 if name == "dropped" else 0.0)
    for seed in range(3):
        world = make(9, seed)
        windows = WindowSimulator(world, errors, np.random.default_rng(seed)).windows()
        assert name != "dropped" or seed or len(windows) < 9 or len(windows[-1].views) != 8
        fused = Fusion()
        poses, _ = fused.run(windows)
        if fused.refused:
            continue
        rows = sorted(poses)
        first = world.world_camera[rows[0]][:3, :3]
        for row in rows:
            turn = poses[row][:3, :3].T @ first.T @ world.world_camera[row][:3, :3]
            assert np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) < 1.0
    assert np.median([len(w.views) for w in windows]) >= 7


@pytest.mark.parametrize("name", ["straight", "turn", "planar", "dropped", "partial"])
def test_the_excess_rotation_at_an_overlap_is_below_a_degree(name):
    """With default errors, beyond those of the windows. Camera centers on a line do not determine it."""
    make, errors = fusion.SCENES[name]
    for seed in range(2):
        world = make(12, seed)
        windows = WindowSimulator(world, errors, np.random.default_rng(seed)).windows()
        scores = {scheme: fusion.measure(world, name, seed, 0.0, scheme, fusion.schemes()[scheme], windows, [])
                  for scheme in ("centers", "ours")}
        assert scores["ours"].joint < 1.0 and scores["ours"].covered == 1
        if name in ("straight", "turn", "planar"):
            assert scores["centers"].joint > 1.0


def test_the_rotation_error_of_a_straight_trajectory_is_that_of_the_cameras():
    """Positions on a line do not determine the rotation about it; orientations do."""
    world = trajectories.straight(4, 0)
    windows = WindowSimulator(world, Errors(), np.random.default_rng(0)).windows()
    assert fusion.measure(world, "straight", 0, 0.0, "ours", fusion.schemes()["ours"], windows, []).rotation < 2


def test_a_loop_at_the_end_of_the_trajectory_has_fewer_keyframes_there():
    """Its joint window must not be split in the middle."""
    network = WindowSimulator(trajectories.partial(31, 0), Errors.none(), np.random.default_rng(0))
    windows = network.windows()
    loops = network.loops(windows, 1.0)
    at = {window.id: window.views.keys() for window in windows}
    for loop in loops:
        assert list(loop.joint.views) == [*loop.sides[0], *loop.sides[1]]
        assert at[loop.first] >= {*loop.sides[0]} and at[loop.second] >= {*loop.sides[1]}
    assert {len(loop.sides[1]) for loop in loops} == {3, 4}


def test_the_last_partial_window_is_placed_by_its_true_overlap():
    short = trajectories.partial(6, 0)
    windows = WindowSimulator(short, Errors.none(), np.random.default_rng(0)).windows()
    assert len(windows[-1].views) < 8
    score = fusion.measure(short, "short", 0, 0.0, "ours", fusion.schemes()["ours"], windows, [])
    assert score.ate < 0.1 and score.covered == 1
