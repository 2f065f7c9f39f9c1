"""Submaps begun after the camera was lost: only loops constrain their relative pose, so two have to be consistent."""

import numpy as np
import pytest
from graphs import (
    BREAK,
    COVARIANCE,
    LAP,
    add_noisy_loop,
    aliasing_shift,
    graph_with_lost_camera,
    laps,
    position_rmse,
)

from vggt_ros.geometry.poses import Sim3, so3_exp
from vggt_ros.pose_graph.graph import PoseGraph


@pytest.mark.parametrize("seed", range(3))
def test_one_loop_stays_pending_and_a_second_consistent_one_joins(seed):
    rng = np.random.default_rng(seed)
    graph, truth = graph_with_lost_camera(rng)
    before = graph.map_node[60].translation
    first = add_noisy_loop(graph, truth, rng, 6, 46)
    assert not first.accepted and first.reason.startswith("waiting") and graph.component(60) == 1
    assert np.array_equal(graph.map_node[60].translation, before), "nor does it move anything"
    second = add_noisy_loop(graph, truth, rng, 9, 49)
    assert first.accepted and second.accepted and graph.component(60) == 0
    assert second.reason == "joins two submaps, supported by 2 images"
    assert position_rmse(graph, truth) < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_false_loops_do_not_join_while_no_two_are_consistent(seed):
    """Three false loops by perceptual aliasing, one after the other; two true ones then join the submaps correctly."""
    rng = np.random.default_rng(seed)
    graph, truth = graph_with_lost_camera(rng)
    wrong = [add_noisy_loop(graph, truth, rng, i, j, aliasing_shift(truth, i + 3, j))
             for i, j in ((30, 42), (12, 44), (5, 50))]
    assert not any(loop.accepted for loop in wrong) and graph.component(60) == 1
    right = [add_noisy_loop(graph, truth, rng, i - LAP, i) for i in (52, 56)]
    assert (
        all(loop.accepted for loop in right) and not any(loop.accepted for loop in wrong) and graph.component(60) == 0
    )
    assert position_rmse(graph, truth) < 0.2


def test_consistent_false_loops_that_come_first_are_replaced():
    """Two windows of a corridor that looks like another one; then true loops in two stretches of the trajectory."""
    rng = np.random.default_rng(7)
    graph, truth = graph_with_lost_camera(rng)
    shift = aliasing_shift(truth, 22, 44)
    wrong = [add_noisy_loop(graph, truth, rng, i - 22, i, shift) for i in (44, 45)]
    assert all(loop.accepted for loop in wrong), "nothing else is known"
    right = [add_noisy_loop(graph, truth, rng, i - LAP, i) for i in (48, 50, 58, 60)]
    assert all(loop.accepted for loop in right) and not any(loop.accepted for loop in wrong)
    assert position_rmse(graph, truth) < 0.2


def test_loops_between_the_same_windows_count_once():
    """Windows of five keyframes: two loops between one pair of windows are one measurement."""
    rng = np.random.default_rng(3)
    graph, truth = graph_with_lost_camera(rng, stride=5)
    same = [add_noisy_loop(graph, truth, rng, i - LAP, i) for i in (46, 48)]
    assert not any(loop.accepted for loop in same) and graph.component(60) == 1
    assert add_noisy_loop(graph, truth, rng, 12, 52).accepted and all(loop.accepted for loop in same)


def test_a_place_that_looks_like_one_that_was_seen_twice_counts_once():
    """Windows of five keyframes: one of them, after the break, looks like a place that two windows before show."""
    rng = np.random.default_rng(6)
    graph, truth = graph_with_lost_camera(rng, stride=5)
    shift = aliasing_shift(truth, 22, 62)
    wrong = [add_noisy_loop(graph, truth, rng, i, 62, shift) for i in (22, 32)]
    assert not any(loop.accepted for loop in wrong) and graph.component(60) == 1


def test_one_loop_with_two_supporting_images_joins():
    rng = np.random.default_rng(4)
    graph, truth = graph_with_lost_camera(rng)
    loop = add_noisy_loop(graph, truth, rng, 6, 46, images=2)
    assert loop.accepted and loop.reason == "joins two submaps, supported by 2 images" and graph.component(60) == 0
    assert position_rmse(graph, truth) < 0.2


def test_a_submap_attached_to_a_joined_one_by_a_break_moves_with_it():
    """A third submap, after a second break: its pose is constrained by the second submap, which loops join."""
    rng = np.random.default_rng(5)
    graph, truth = graph_with_lost_camera(rng)
    begin = graph.map_node[69] @ truth[69].inverse() @ truth[20]
    graph.add_submap(70, begin, 69, BREAK)
    for i in range(71, 80):
        graph.add_node(i, i - 1, truth[i - 51].inverse() @ truth[i - 50], COVARIANCE / 20)
    add_noisy_loop(graph, truth, rng, 6, 46)
    add_noisy_loop(graph, truth, rng, 9, 49)
    assert [graph.component(i) for i in (0, 60, 75)] == [0, 0, 2]
    assert np.linalg.norm(graph.map_node[75].translation - truth[25].translation) < 1.0


def graph_of_three_submaps(sigmas=0.0):
    """Submaps 0, 1 begun at a break at node 30 with an error of `sigmas`, and 2 begun at 50 after a lost camera."""
    rng = np.random.default_rng(8)
    truth, graph = laps(70, rng), PoseGraph()
    for i in range(70):
        unit = np.diag([1] * 3 + [1 / truth[i].scale] * 3 + [1.0])
        if i == 30:
            error = Sim3(1.0, so3_exp(np.array([0.0, 0.09 * sigmas, 0.0])),
                         np.array([1.5 * sigmas / truth[i].scale, 0, 0]))
            graph.add_submap(i, truth[i] @ error, 29, unit @ BREAK @ unit)
        elif i in (0, 50):
            graph.add_submap(i, truth[0])
        else:
            graph.add_node(i, i - 1, truth[i - 1].inverse() @ truth[i], COVARIANCE / 20)
    return graph, truth, rng


def test_loops_to_two_submaps_are_consistent_through_the_break_between_these():
    """One loop connects the third submap with the second, another one with the first; a break connects those two."""
    graph, truth, rng = graph_of_three_submaps(sigmas=1.0)
    assert not add_noisy_loop(graph, truth, rng, 35, 55).accepted
    loops = [*graph.loops, add_noisy_loop(graph, truth, rng, 12, 52)]
    assert all(loop.accepted for loop in loops) and [graph.component(i) for i in (40, 60)] == [0, 0]
    assert position_rmse(graph, truth) < 0.2


def test_a_pending_loop_is_decided_when_others_have_joined():
    """A loop that is inconsistent through the break is rejected as soon as others constrain the submaps."""
    graph, truth, rng = graph_of_three_submaps()
    wrong = add_noisy_loop(graph, truth, rng, 45, 55, aliasing_shift(truth, 10, 55))
    right = [add_noisy_loop(graph, truth, rng, i - LAP, i) for i in (52, 58)]
    assert wrong.reason.startswith("its chi-square") and not wrong.accepted and not wrong.pending
    assert all(loop.accepted for loop in right) and [graph.component(i) for i in (40, 60)] == [1, 0]
    assert position_rmse(graph, truth) < 0.2
