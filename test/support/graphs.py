"""Pose graphs of trajectories around a block, with breaks of the chain, and with true and false loops."""

import numpy as np

from vggt_ros.geometry.poses import Sim3, so3_exp
from vggt_ros.pose_graph.graph import PoseGraph

LAP = 40
"""Nodes in a lap around the block."""
DRIFT = np.diag([0.004**2] * 3 + [0.02**2] * 3 + [0.006**2])
LOOP = np.diag([0.006**2] * 3 + [0.03**2] * 3 + [0.01**2])
BREAK = np.diag([0.09**2] * 3 + [1.5**2] * 3 + [1.0])
COVARIANCE = np.diag([1e-4] * 3 + [1e-3] * 3 + [1e-4])
"""Covariances of relative poses: of overlaps, loops and breaks in map units, and of overlaps in the nodes' units."""


def laps(count, rng):
    """Poses of nodes that go around a block repeatedly, each in its own unit."""
    angle = 2 * np.pi * np.arange(count) / LAP
    position = np.stack([15 * np.cos(angle), 0.3 * np.sin(2 * angle), 10 * np.sin(angle)], 1)
    position += 0.3 * rng.standard_normal((count, 3))
    return [Sim3(float(np.exp(0.3 * rng.standard_normal())), so3_exp(np.array([0, -a, 0])), p)
            for a, p in zip(angle, position, strict=True)]


def measured(true, covariance, unit, rng, factor=1.0):
    """A measurement with `factor` times the noise of a covariance in map units, and that covariance in `unit`."""
    scaled = np.diag([1] * 3 + [1 / unit] * 3 + [1.0])
    covariance = scaled @ covariance @ scaled
    x = factor * np.linalg.cholesky(covariance) @ rng.standard_normal(7)
    return true @ Sim3(float(np.exp(x[6])), so3_exp(x[:3]), x[3:6]), covariance


def position_rmse(graph, truth):
    """RMSE of the nodes' positions; the first one is fixed at the truth."""
    errors = [graph.map_node[i].translation - t.translation for i, t in enumerate(truth)]
    return float(np.sqrt(np.mean(np.square(errors).sum(1))))


def noisy(similarity: Sim3, rng: np.random.Generator, sigma: float) -> Sim3:
    """Return a similarity perturbed on the right."""
    return similarity @ Sim3(float(np.exp(sigma * rng.standard_normal())), so3_exp(sigma * rng.standard_normal(3)),
                             3 * sigma * rng.standard_normal(3))


def graph_with_break(rng, sigmas, reference=39):
    """Graph of two submaps, the second begun at a break at node 40 with an error of `sigmas` (7,); and the truth."""
    truth, graph = laps(70, rng), PoseGraph()
    for i in range(70):
        if i == 0:
            graph.add_submap(i, truth[0])
        elif i == 40:
            x = np.sqrt(np.diag(BREAK)) * sigmas
            unit = np.diag([1] * 3 + [1 / truth[i].scale] * 3 + [1.0])
            begin = truth[i] @ Sim3(float(np.exp(x[6])), so3_exp(x[:3]), x[3:6] / truth[i].scale)
            graph.add_submap(i, begin, reference, unit @ BREAK @ unit if reference is not None else None)
        else:
            graph.add_node(i, i - 1, truth[i - 1].inverse() @ truth[i], COVARIANCE / 20)
    return graph, truth


def graph_with_lost_camera(rng, stride=1):
    """Graph of two submaps, the second begun at node 40 after the camera was lost, at an arbitrary pose; and truth."""
    truth, graph = laps(70, rng), PoseGraph(stride)
    arbitrary = Sim3(0.4, so3_exp(np.array([0.5, 2.0, 0.3])), np.array([30.0, 5, 1]))
    for i in range(70):
        if i in (0, 40):
            graph.add_submap(i, arbitrary @ truth[i] if i else truth[0])
        else:
            graph.add_node(i, i - 1, truth[i - 1].inverse() @ truth[i], COVARIANCE / 20)
    return graph, truth


def add_noisy_loop(graph, truth, rng, first, second, shift=None, images=1):
    """Add a loop with noise: a true one, or a false one that sees the second node moved by a `shift` of the map."""
    relative = truth[first].inverse() @ (shift or Sim3.identity()) @ truth[second]
    relation, covariance = measured(relative, LOOP, truth[second].scale, rng)
    return graph.add_loop(first, second, relation, covariance, images=images)


def aliasing_shift(truth, first, second):
    """The shift of the map that moves the second node to the first: perceptual aliasing of their places."""
    return truth[first] @ truth[second].inverse()
