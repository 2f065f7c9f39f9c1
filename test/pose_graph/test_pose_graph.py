"""The pose graph with exact loops, and compared with a batch solver."""

import gtsam
import numpy as np
import pytest
from graphs import COVARIANCE, noisy

from vggt_ros.geometry.poses import Sim3, rotation_angle, so3_exp
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.windows.solution import Edge


def ring(count: int) -> list[Sim3]:
    """Return the true poses of nodes on a circle, each in its own unit."""
    rng = np.random.default_rng(0)
    return [Sim3(float(np.exp(0.3 * rng.standard_normal())) if i else 1.0,
                 so3_exp(np.array([0, 2 * np.pi * i / count, 0])),
                 np.array([5 * np.sin(2 * np.pi * i / count), 0, 5 - 5 * np.cos(2 * np.pi * i / count)]))
            for i in range(count)]


def edge(first: int, second: int, relation: Sim3, covariance: np.ndarray = COVARIANCE) -> Edge:
    """Return a measurement of the relative pose of two nodes."""
    return Edge(first, second, "overlap", relation, covariance)


def largest_error(graph: PoseGraph, truth: list[Sim3]) -> float:
    """Return the largest error of position."""
    return max(float(np.linalg.norm(graph.map_node[i].translation - t.translation)) for i, t in enumerate(truth))


def test_a_chain_without_noise_is_exact():
    """Composition through gtsam's convention and back."""
    truth, graph = ring(12), PoseGraph()
    graph.add_submap(0, truth[0])
    for i in range(1, 12):
        graph.add_node(i, i - 1, truth[i - 1].inverse() @ truth[i], COVARIANCE)
    assert largest_error(graph, truth) < 1e-9
    for i, t in enumerate(truth):
        assert graph.map_node[i].scale == pytest.approx(t.scale, rel=1e-9)
        assert rotation_angle(graph.map_node[i].rotation.T @ t.rotation) < 1e-9


def test_a_loop_takes_out_most_of_the_drift():
    """Noise accumulates along the ring; one true loop at its end reduces the error severalfold, in scale too."""
    gains = []
    for seed in range(6):
        rng, truth, graph = np.random.default_rng(seed), ring(30), PoseGraph()
        graph.add_submap(0, truth[0])
        for i in range(1, 30):
            graph.add_node(i, i - 1, noisy(truth[i - 1].inverse() @ truth[i], rng, 0.01), COVARIANCE)
        before = largest_error(graph, truth)
        graph.add_loop(0, 29, truth[0].inverse() @ truth[29], COVARIANCE)
        gains.append(before / largest_error(graph, truth))
    assert np.median(gains) > 2


def test_the_increments_reach_what_a_batch_solve_reaches():
    """The graph after a loop against one batch Levenberg-Marquardt solve of the same factors."""
    rng, truth, graph = np.random.default_rng(3), ring(20), PoseGraph()
    factors, guesses = gtsam.NonlinearFactorGraph(), gtsam.Values()
    noise = gtsam.noiseModel.Gaussian.Covariance(COVARIANCE)

    def convert(s: Sim3) -> gtsam.Similarity3:
        return gtsam.Similarity3(gtsam.Rot3(s.rotation), s.translation / s.scale, s.scale)

    graph.add_submap(0, truth[0])
    factors.add(gtsam.PriorFactorSimilarity3(0, convert(truth[0]), gtsam.noiseModel.Isotropic.Sigma(7, 1e-4)))
    guesses.insert(0, convert(truth[0]))
    for i in range(1, 20):
        step = noisy(truth[i - 1].inverse() @ truth[i], rng, 0.01)
        graph.add_node(i, i - 1, step, COVARIANCE)
        factors.add(gtsam.BetweenFactorSimilarity3(i - 1, i, convert(step), noise))
        guesses.insert(i, convert(graph.map_node[i]))
    loop = truth[0].inverse() @ truth[19]
    graph.add_loop(0, 19, loop, COVARIANCE)
    factors.add(gtsam.BetweenFactorSimilarity3(0, 19, convert(loop), noise))
    batch = gtsam.LevenbergMarquardtOptimizer(factors, guesses).optimize()
    for i in range(20):
        expected = batch.atSimilarity3(i)
        assert np.allclose(graph.map_node[i].translation, expected.scale() * expected.translation(), atol=0.02)
        assert graph.map_node[i].scale == pytest.approx(expected.scale(), rel=0.01)


def test_a_second_submap_does_not_move_the_first():
    """A second submap has its own anchor."""
    truth, graph = ring(4), PoseGraph()
    graph.add_submap(0, truth[0])
    graph.add_node(1, 0, truth[0].inverse() @ truth[1], COVARIANCE)
    graph.add_submap(7, truth[3])
    assert np.allclose(graph.map_node[7].translation, truth[3].translation)
    assert np.allclose(graph.map_node[1].translation, truth[1].translation)
    assert [e.kind for e in graph.edges] == ["overlap"]


def test_two_measurements_of_a_relative_pose_are_fused_by_their_information():
    """Nodes attached behind it move along; a measurement that contradicts the first one is not fused."""
    truth, graph = ring(6), PoseGraph()
    graph.add_submap(0, truth[0])
    step = truth[1].inverse() @ truth[2]
    off = Sim3(1.02, so3_exp(np.array([0.0, 0.01, 0.0])), np.array([0.02, 0.0, 0.0]))
    for i in range(1, 6):
        graph.add_node(i, i - 1, truth[i - 1].inverse() @ truth[i] @ (off if i == 2 else Sim3.identity()), COVARIANCE)
    before = graph.map_node[2].inverse() @ graph.map_node[5]
    far = step @ Sim3(2.0, np.eye(3), np.zeros(3))
    assert graph.merge([edge(1, 3, step), edge(1, 2, far)]) == [False, False]  # another parent; contradicted
    assert graph.merge([edge(1, 2, step, COVARIANCE / 3), edge(1, 3, step)]) == [True, False]
    left = graph.map_node[1].inverse() @ graph.map_node[2]
    assert np.log(left.scale / step.scale) == pytest.approx(np.log(1.02) / 4, rel=0.02)
    assert rotation_angle(step.rotation.T @ left.rotation) == pytest.approx(0.01 / 4, rel=0.02)
    assert np.allclose(graph.overlap_edges([2])[0].covariance, COVARIANCE / 4)
    after = graph.map_node[2].inverse() @ graph.map_node[5]
    assert np.allclose(after.translation, before.translation) and after.scale == pytest.approx(before.scale)


def test_rounding_errors_do_not_grow_along_a_chain():
    """Every relative pose is measured again from the poses, as windows do: rotations stay orthonormal."""
    truth, graph = ring(12), PoseGraph()
    graph.add_submap(0, Sim3.identity())
    for i in range(1, 1500):
        step = truth[i % 12].inverse() @ truth[(i + 1) % 12]
        if i > 2:  # by a detour through the map, as an alignment measures
            step = (graph.map_node[i - 1].inverse() @ graph.map_node[i - 2]) @ (
                graph.map_node[i - 2].inverse() @ graph.map_node[i - 1]) @ step
        graph.add_node(i, i - 1, step, COVARIANCE)
        graph.merge([edge(i - 1, i, step)])
    rotation = graph.map_node[1499].rotation
    assert np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-12


def test_marginalized_nodes_do_not_change_the_map():
    """Of two equal graphs, one marginalizes most nodes; then both grow, close loops that move them, and stay equal.

    They are not equal to rounding errors: the covariance of composed factors is linearized once. Both have a branch, a
    second submap that a loop joins, a merged relative pose, and loops before and after.
    """
    count, graphs = 60, [PoseGraph(), PoseGraph()]
    truth = ring(count)
    kept = [0, 3, 7, 8, 15, 22, 23, 31, 33, 39]
    for graph, marginalizes in zip(graphs, (False, True), strict=True):
        rng = np.random.default_rng(1)

        def step(first: int, second: int, rng=rng) -> tuple[Sim3, np.ndarray]:
            return noisy(truth[first].inverse() @ truth[second], rng, 0.01), COVARIANCE

        graph.add_submap(0, truth[0])
        for i in range(1, 30):
            graph.add_node(i, 12 if i == 20 else i - 1, *step(12 if i == 20 else i - 1, i))
        graph.merge([edge(14, 15, *step(14, 15))])
        graph.add_submap(30, Sim3.identity())
        for i in range(31, 40):
            graph.add_node(i, i - 1, *step(i - 1, i))
        graph.add_loop(5, 25, *step(5, 25))
        graph.add_loop(6, 36, *step(6, 36))
        graph.add_loop(9, 39, *step(9, 39))
        if marginalizes:
            before = {node: graph.map_node[node] for node in kept}
            size = len(graph.map_node)
            graph.marginalize(kept)
            assert len(graph.map_node) < 0.5 * size
            for node, pose in before.items():
                assert np.allclose(graph.map_node[node].translation, pose.translation, atol=1e-9)
            parents = {edge.second: edge.first for edge in graph.edges if edge.kind == "overlap"}
            assert {*parents, *parents.values(), *graph.anchors} <= {*graph.map_node}
            assert parents[39] == 36 and parents[33] == 31  # across marginalized nodes, and unchanged
        for i in range(40, count):
            graph.add_node(i, i - 1, *step(i - 1, i))
        graph.rescale(39, 1.1)
        before_loops = graph.map_node[45].translation
        for first, second in ((7, 50), (22, 45), (33, 58)):
            graph.add_loop(first, second, *step(first, second))
    whole, small = graphs
    for node in (*kept, *range(40, count)):
        assert np.allclose(small.map_node[node].translation, whole.map_node[node].translation, atol=5e-4)
        assert small.map_node[node].scale == pytest.approx(whole.map_node[node].scale, rel=1e-4)
    assert np.linalg.norm(whole.map_node[45].translation - before_loops) > 0.1
    assert [loop.accepted for loop in small.loops] == [loop.accepted for loop in whole.loops]
    assert sum(loop.accepted for loop in small.loops) >= 4
