"""Which loops the graph accepts: with true loops, false ones, and families of false ones that are consistent."""

from dataclasses import replace

import numpy as np
import pytest
from graphs import BREAK, COVARIANCE, DRIFT, LAP, LOOP, graph_with_break, laps, measured, noisy, position_rmse

from vggt_ros.geometry.poses import Sim3, so3_exp
from vggt_ros.pose_graph.graph import PoseGraph


def simulate(seed, count=140, false=False, overconfident=1.0):
    """Graph, truth, true loops and false loops; as many false as true, half of them in consistent families of four."""
    rng, false_rng = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    truth, graph = laps(count, rng), PoseGraph()
    graph.add_submap(0, truth[0])
    good, bad, family = [], [], []
    for i in range(1, count):
        step, covariance = measured(truth[i - 1].inverse() @ truth[i], DRIFT, truth[i].scale, rng, overconfident)
        graph.add_node(i, i - 1, step, covariance)
        if i >= LAP and i % 4 == 0:
            j = i - LAP * int(rng.integers(1, i // LAP + 1))
            good.append(graph.add_loop(j, i, *measured(truth[j].inverse() @ truth[i], LOOP, truth[i].scale, rng)))
        if not false or i < LAP // 2:
            continue
        relative = Sim3(float(np.exp(0.1 * false_rng.standard_normal())), so3_exp(0.3 * false_rng.standard_normal(3)),
                        false_rng.standard_normal(3))
        if i % 8 == 3:  # a single place that looks like this one
            j = int(false_rng.integers(0, i - 10))
            relative = Sim3(relative.scale * truth[i].scale / truth[j].scale, relative.rotation,
                            relative.translation / truth[j].scale)
            bad.append(graph.add_loop(j, i, *measured(relative, LOOP, truth[i].scale, false_rng)))
        if i % 32 == 5:  # a corridor that looks like this one: the next nodes see the same place, too
            j = int(false_rng.integers(0, i - 10))
            here = Sim3(truth[i].scale, truth[i].rotation, truth[i].translation)
            elsewhere = Sim3(relative.scale * truth[i].scale, truth[j].rotation @ relative.rotation,
                             truth[j].translation + relative.translation)
            family = [(j, elsewhere @ here.inverse())] * 4
        if family:
            j, shift = family.pop()
            seen = truth[j].inverse() @ shift @ truth[i]
            bad.append(graph.add_loop(j, i, *measured(seen, LOOP, truth[i].scale, false_rng)))
    return graph, truth, good, bad


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("overconfident", [1.0, 2.0])
def test_false_loops_do_not_change_the_map(seed, overconfident):
    """As many false as true, with correct covariances of the overlaps, and with errors twice as large."""
    clean, truth, good, _ = simulate(seed, overconfident=overconfident)
    graph, truth, good_among_bad, bad = simulate(seed, false=True, overconfident=overconfident)
    assert len(bad) >= len(good)
    assert sum(loop.accepted for loop in bad) == 0
    assert sum(loop.accepted for loop in good_among_bad) >= 0.8 * len(good)
    assert position_rmse(graph, truth) <= 1.1 * position_rmse(clean, truth)


def test_reasons_and_edge_kinds_match_the_states_of_loops():
    graph, _, _, _ = simulate(0, false=True)
    kinds = [edge.kind for edge in graph.edges]
    assert kinds.count("loop") == sum(loop.accepted for loop in graph.loops) > 0
    assert kinds.count("refused") == sum(not loop.accepted for loop in graph.loops) > 0
    assert all(
        "chi-square" in loop.reason or "inconsistent" in loop.reason for loop in graph.loops if not loop.accepted
    )


def test_a_loop_that_later_ones_contradict_is_removed():
    """After an uncertain overlap a false loop passes the gate; two true ones replace it."""
    rng = np.random.default_rng(0)
    truth, graph = laps(60, rng), PoseGraph()
    graph.add_submap(0, truth[0])
    for i in range(1, 60):
        covariance = COVARIANCE if i != 30 else np.diag([1.0] * 3 + [100.0] * 3 + [1.0])
        graph.add_node(i, i - 1, noisy(truth[i - 1].inverse() @ truth[i], rng, 0.003), covariance)
    wrong = graph.add_loop(2, 40, truth[12].inverse() @ truth[40], LOOP)
    assert wrong.accepted
    right = [graph.add_loop(i, i + LAP, truth[i].inverse() @ truth[i + LAP], LOOP) for i in (3, 10, 17)]
    assert all(loop.accepted for loop in right)
    assert not wrong.accepted and "inconsistent" in wrong.reason


def test_a_loop_joins_two_submaps_rigidly():
    """The younger submap moves as a whole; a third that nothing connects stays where it is."""
    rng = np.random.default_rng(0)
    truth, graph = laps(50, rng), PoseGraph()
    arbitrary = Sim3(0.4, so3_exp(np.array([0.5, 2.0, 0.3])), np.array([30.0, 5, 1]))
    for i in range(50):
        if i in (0, 20, 40):
            graph.add_submap(i, arbitrary @ truth[i] if i else truth[0])
        else:
            graph.add_node(i, i - 1, truth[i - 1].inverse() @ truth[i], COVARIANCE)
    assert [graph.component(i) for i in (0, 25, 45)] == [0, 1, 2]
    loops = [graph.add_loop(i, i + LAP, truth[i].inverse() @ truth[i + LAP], LOOP) for i in (4, 8)]
    assert all(loop.accepted for loop in loops) and [graph.component(i) for i in (0, 25, 45)] == [0, 1, 0]
    for i in (*range(20), *range(40, 50)):
        assert np.allclose(graph.map_node[i].translation, truth[i].translation, atol=1e-6)
        assert graph.map_node[i].scale == pytest.approx(truth[i].scale)
    assert np.allclose(graph.map_node[25].translation, arbitrary.apply(truth[25].translation))
    for i in (30, 35):
        graph.add_loop(i + 11, i, truth[i + 11].inverse() @ truth[i], LOOP)
    assert graph.component(25) == 0
    assert position_rmse(graph, truth) < 1e-6


def test_a_false_connection_of_submaps_is_undone():
    """A submap joined by two consistent false loops moves to where several true ones measure it."""
    rng = np.random.default_rng(1)
    truth, graph = laps(70, rng), PoseGraph()
    for i in range(70):
        if i in (0, 40):
            graph.add_submap(i, truth[0])
        else:
            graph.add_node(i, i - 1, truth[i - 1].inverse() @ truth[i], COVARIANCE)
    shift = truth[30] @ truth[12].inverse()
    wrong = [graph.add_loop(i - 12, i, truth[i - 12].inverse() @ shift @ truth[i], LOOP) for i in (42, 43)]
    assert all(loop.accepted for loop in wrong)
    right = [graph.add_loop(i - LAP, i, truth[i - LAP].inverse() @ truth[i], LOOP) for i in (45, 52, 60, 67)]
    assert all(loop.accepted for loop in right) and not any(loop.accepted for loop in wrong)
    assert position_rmse(graph, truth) < 0.01  # a third of the loops' own sigma


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("false_first", [True, False])
def test_consistent_false_loops_do_not_join_submaps(seed, false_first):
    """Four loops of a look-alike corridor, and three true ones in one stretch of the trajectory, in either order."""
    rng = np.random.default_rng(seed)
    graph, truth = graph_with_break(rng, rng.standard_normal(7))
    shift = truth[22] @ truth[44].inverse()  # half the block away
    family = [(i - 22, i, truth[i - 22].inverse() @ shift @ truth[i]) for i in range(44, 48)]
    right = [(i - LAP, i, truth[i - LAP].inverse() @ truth[i]) for i in (45, 47, 49)]
    measurements = [*family, *right] if false_first else [*right, *family]
    loops = {id(one): graph.add_loop(*one[:2], *measured(one[2], LOOP, truth[one[1]].scale, rng))
             for one in measurements}
    assert not any(loops[id(one)].accepted for one in family)
    assert all(loops[id(one)].accepted for one in right) and graph.component(60) == 0
    assert position_rmse(graph, truth) < 0.2


def test_one_loop_within_the_gate_joins_submaps():
    """The camera returns to one place only: with a break that is enough."""
    rng = np.random.default_rng(2)
    graph, truth = graph_with_break(rng, np.full(7, 1.5))
    loop = graph.add_loop(6, 46, truth[6].inverse() @ truth[46], LOOP)
    assert loop.accepted and loop.reason == "joins two submaps" and graph.component(60) == 0
    assert position_rmse(graph, truth) < 0.1  # the overlaps absorb a little of the break's error of 3.5


def test_two_clusters_of_loops_override_a_wrong_break():
    """The break is completely wrong: a single cluster of loops is rejected, a second one joins the submaps."""
    rng = np.random.default_rng(3)
    graph, truth = graph_with_break(rng, np.array([0, 20.0, 0, 8, 0, 8, 0]))
    first = [graph.add_loop(i - LAP, i, truth[i - LAP].inverse() @ truth[i], LOOP) for i in (44, 46, 48)]
    assert not any(loop.accepted for loop in first) and graph.component(60) == 1
    later = graph.add_loop(18, 58, truth[18].inverse() @ truth[58], LOOP)
    assert later.accepted and all(loop.accepted for loop in first) and graph.component(60) == 0
    assert position_rmse(graph, truth) < 0.01


def test_a_better_hypothesis_moves_a_joined_submap():
    """A false loop that the break allows joins first; a single true one fits the break better."""
    rng = np.random.default_rng(4)
    graph, truth = graph_with_break(rng, np.zeros(7))
    x = 4.0 * np.sqrt(np.diag(BREAK)) * [0, 1, 0, 1, 0, 0, 0]
    shift = truth[40] @ Sim3(1.0, so3_exp(x[:3]), x[3:6] / truth[40].scale) @ truth[40].inverse()
    wrong = graph.add_loop(5, 44, truth[5].inverse() @ shift @ truth[44], LOOP)
    assert wrong.accepted and graph.component(60) == 0
    assert graph.add_loop(15, 55, truth[15].inverse() @ truth[55], LOOP).accepted
    assert not wrong.accepted and position_rmse(graph, truth) < 0.01


def test_many_loops_that_contradict_the_break_lose_to_fewer_that_agree_with_it():
    """Six loops of a corridor join first; loops within the younger submap do not constrain its pose to the older."""
    rng = np.random.default_rng(5)
    graph, truth = graph_with_break(rng, np.zeros(7))
    x = 5.0 * np.sqrt(np.diag(BREAK)) * [0, 1, 0, 1, 0, 0, 0]
    shift = truth[40] @ Sim3(1.0, so3_exp(x[:3]), x[3:6] / truth[40].scale) @ truth[40].inverse()
    family = [graph.add_loop(i - 38, i, truth[i - 38].inverse() @ shift @ truth[i], LOOP) for i in range(42, 48)]
    assert all(loop.accepted for loop in family) and graph.component(60) == 0
    within = [graph.add_loop(i, i + 12, truth[i].inverse() @ truth[i + 12], LOOP) for i in (41, 48, 55)]
    right = [graph.add_loop(i - 30, i, truth[i - 30].inverse() @ truth[i], LOOP) for i in (50, 52)]
    assert all(loop.accepted for loop in (*within, *right)) and not any(loop.accepted for loop in family)
    assert position_rmse(graph, truth) < 0.01


@pytest.mark.parametrize("seed", range(2))
def test_settling_old_loops_keeps_the_accuracy(seed, monkeypatch):
    """Beyond the limit, the oldest loops are absorbed into the overlaps; false loops still change nothing."""
    unlimited, truth, *_ = simulate(seed, count=260, false=True)
    monkeypatch.setattr("vggt_ros.pose_graph.loop_selection._MAX_LOOPS", 20)
    graph, _, good, bad = simulate(seed, count=260, false=True)
    assert graph.settled >= 30 and sum(loop.accepted for loop in graph.loops) == len(good) - graph.settled <= 20
    assert len({loop.id for loop in graph.loops}) == len(graph.loops) <= 20 + 20 + 5
    assert not any(loop.accepted for loop in bad)
    assert position_rmse(graph, truth) < 1.8 * position_rmse(unlimited, truth), \
        "twenty loops are half a lap's worth here"
    restored = PoseGraph()
    restored.restore(dict(graph.map_node), graph.anchors, graph.edges)
    assert position_rmse(restored, truth) == pytest.approx(position_rmse(graph, truth), rel=1e-6)


def test_a_restored_graph_continues_like_the_original():
    """The same poses, the same states of loops, and the same result of a later loop."""
    rng = np.random.default_rng(5)
    graph, truth, _, _ = simulate(3, false=True)
    restored = PoseGraph()
    restored.restore(dict(graph.map_node), graph.anchors, graph.edges)
    assert [edge.kind for edge in restored.edges] == [edge.kind for edge in graph.edges]
    for node, pose in graph.map_node.items():
        assert np.allclose(restored.map_node[node].translation, pose.translation, atol=1e-9)
    relative, covariance = measured(truth[-40].inverse() @ truth[-1], LOOP, truth[-1].scale, rng)
    for one in (graph, restored):
        one.add_loop(len(truth) - 40, len(truth) - 1, relative, covariance)
    assert position_rmse(restored, truth) == pytest.approx(position_rmse(graph, truth), rel=0.1)
    with pytest.raises(ValueError, match="node 1 of the graph is neither an anchor nor attached to an earlier node"):
        PoseGraph().restore({0: truth[0], 1: truth[1]}, [0], [])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_solution_that_is_not_finite_is_not_used(value, caplog):
    """Known fault: one measurement without a scale made all poses NaN, and every later window failed."""
    graph, truth, good, _ = simulate(3)
    before, accepted = position_rmse(graph, truth), sum(loop.accepted for loop in good)
    selection = graph._selection
    relative = good[-1].first_second
    bad = replace(good[-1], id=10**6, accepted=False,
                  first_second=Sim3(relative.scale, relative.rotation, np.full(3, value)))
    selection.loops.append(bad)
    selection.accept([bad])
    assert not bad.accepted and sum(loop.accepted for loop in good) == accepted
    assert position_rmse(graph, truth) == pytest.approx(before, rel=1e-3)
    assert "no finite solution" in caplog.text
