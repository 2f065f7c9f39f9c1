"""Submaps begun by a camera that was lost: nothing tells how they lie but loops, so two have to agree."""

import numpy as np
import pytest
from graphs import BREAK, COVARIANCE, LAP, error, laps, look_alike, lost, offer

from vggt_ros.geometry.poses import Sim3, so3_exp
from vggt_ros.pose_graph.graph import PoseGraph


@pytest.mark.parametrize("seed", range(3))
def test_one_loop_waits_and_a_second_one_that_agrees_joins(seed):
    rng = np.random.default_rng(seed)
    graph, truth = lost(rng)
    before = graph.map_node[60].translation
    first = offer(graph, truth, rng, 6, 46)
    assert not first.accepted and first.reason.startswith("waits") and graph.component(60) == 1
    assert np.array_equal(graph.map_node[60].translation, before), "nor does it move anything"
    second = offer(graph, truth, rng, 9, 49)
    assert first.accepted and second.accepted and graph.component(60) == 0
    assert second.reason == "joins two submaps, as 2 images agree"
    assert error(graph, truth) < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_false_loops_do_not_join_while_no_two_agree(seed):
    """Three places that look alike, one after the other; two true ones then join where they belong."""
    rng = np.random.default_rng(seed)
    graph, truth = lost(rng)
    wrong = [offer(graph, truth, rng, i, j, look_alike(truth, i + 3, j)) for i, j in ((30, 42), (12, 44), (5, 50))]
    assert not any(loop.accepted for loop in wrong) and graph.component(60) == 1
    right = [offer(graph, truth, rng, i - LAP, i) for i in (52, 56)]
    assert (
        all(loop.accepted for loop in right) and not any(loop.accepted for loop in wrong) and graph.component(60) == 0
    )
    assert error(graph, truth) < 0.2


def test_false_loops_that_agree_and_come_first_are_outvoted():
    """Two windows of a corridor that looks like another one; then true ones of two stretches of the way."""
    rng = np.random.default_rng(7)
    graph, truth = lost(rng)
    shift = look_alike(truth, 22, 44)
    wrong = [offer(graph, truth, rng, i - 22, i, shift) for i in (44, 45)]
    assert all(loop.accepted for loop in wrong), "nothing else is known"
    right = [offer(graph, truth, rng, i - LAP, i) for i in (48, 50, 58, 60)]
    assert all(loop.accepted for loop in right) and not any(loop.accepted for loop in wrong)
    assert error(graph, truth) < 0.2


def test_loops_between_the_same_windows_are_not_two():
    """Windows of five keyframes: what one pair of windows says twice is said once."""
    rng = np.random.default_rng(3)
    graph, truth = lost(rng, stride=5)
    same = [offer(graph, truth, rng, i - LAP, i) for i in (46, 48)]
    assert not any(loop.accepted for loop in same) and graph.component(60) == 1
    assert offer(graph, truth, rng, 12, 52).accepted and all(loop.accepted for loop in same)


def test_two_images_found_in_the_map_are_two():
    rng = np.random.default_rng(4)
    graph, truth = lost(rng)
    loop = offer(graph, truth, rng, 6, 46, images=2)
    assert loop.accepted and loop.reason == "joins two submaps, as 2 images agree" and graph.component(60) == 0
    assert error(graph, truth) < 0.2


def test_a_submap_that_hangs_on_another_one_goes_along():
    """A third submap, where the chain broke a second time: its place is known by the second, which loops join."""
    rng = np.random.default_rng(5)
    graph, truth = lost(rng)
    begins = graph.map_node[69] @ truth[69].inverse() @ truth[20]
    graph.add_submap(70, begins, 69, BREAK)
    for i in range(71, 80):
        graph.add_node(i, i - 1, truth[i - 51].inverse() @ truth[i - 50], COVARIANCE / 20)
    offer(graph, truth, rng, 6, 46)
    offer(graph, truth, rng, 9, 49)
    assert [graph.component(i) for i in (0, 60, 75)] == [0, 0, 2]
    assert np.linalg.norm(graph.map_node[75].translation - truth[25].translation) < 1.0


def three(off=0.0):
    """Submaps 0, 1 that begins `off` sigmas from where the chain broke at 30, and 2, begun by a lost camera at 50."""
    rng = np.random.default_rng(8)
    truth, graph = laps(70, rng), PoseGraph()
    for i in range(70):
        unit = np.diag([1] * 3 + [1 / truth[i].scale] * 3 + [1.0])
        if i == 30:
            there = Sim3(1.0, so3_exp(np.array([0.0, 0.09 * off, 0.0])), np.array([1.5 * off / truth[i].scale, 0, 0]))
            graph.add_submap(i, truth[i] @ there, 29, unit @ BREAK @ unit)
        elif i in (0, 50):
            graph.add_submap(i, truth[0])
        else:
            graph.add_node(i, i - 1, truth[i - 1].inverse() @ truth[i], COVARIANCE / 20)
    return graph, truth, rng


def test_loops_that_agree_by_way_of_a_break_are_two():
    """The third submap is seen from the second and from the first, which hang together loosely."""
    graph, truth, rng = three(off=1.0)
    assert not offer(graph, truth, rng, 35, 55).accepted
    loops = [*graph.loops, offer(graph, truth, rng, 12, 52)]
    assert all(loop.accepted for loop in loops) and [graph.component(i) for i in (40, 60)] == [0, 0]
    assert error(graph, truth) < 0.2


def test_a_loop_that_waits_is_judged_when_others_have_joined():
    """One that does not agree by way of the break is judged by it, as soon as something tells how the submaps lie."""
    graph, truth, rng = three()
    wrong = offer(graph, truth, rng, 45, 55, look_alike(truth, 10, 55))
    right = [offer(graph, truth, rng, i - LAP, i) for i in (52, 58)]
    assert wrong.reason.startswith("off by chi-square") and not wrong.accepted and not wrong.waits
    assert all(loop.accepted for loop in right) and [graph.component(i) for i in (40, 60)] == [1, 0]
    assert error(graph, truth) < 0.2
