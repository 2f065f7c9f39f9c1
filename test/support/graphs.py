"""Pose graphs of drives around a block, with breaks and with loops, true and false."""

import numpy as np

from vggt_ros.geometry.poses import Sim3, so3_exp
from vggt_ros.pose_graph.graph import PoseGraph

LAP = 40
DRIFT = np.diag([0.004**2] * 3 + [0.02**2] * 3 + [0.006**2])
LOOP = np.diag([0.006**2] * 3 + [0.03**2] * 3 + [0.01**2])
BREAK = np.diag([0.09**2] * 3 + [1.5**2] * 3 + [1.0])
COVARIANCE = np.diag([1e-4] * 3 + [1e-3] * 3 + [1e-4])


def laps(count, rng):
    """Places of windows that go around a block again and again, each in a unit of its own."""
    angle = 2 * np.pi * np.arange(count) / LAP
    position = np.stack([15 * np.cos(angle), 0.3 * np.sin(2 * angle), 10 * np.sin(angle)], 1)
    position += 0.3 * rng.standard_normal((count, 3))
    return [Sim3(float(np.exp(0.3 * rng.standard_normal())), so3_exp(np.array([0, -a, 0])), p)
            for a, p in zip(angle, position, strict=True)]


def measured(true, covariance, unit, rng, factor=1.0):
    """A measurement with noise of a covariance, in map units, times a factor; and the covariance in the unit given."""
    scaled = np.diag([1] * 3 + [1 / unit] * 3 + [1.0])
    covariance = scaled @ covariance @ scaled
    x = factor * np.linalg.cholesky(covariance) @ rng.standard_normal(7)
    return true @ Sim3(float(np.exp(x[6])), so3_exp(x[:3]), x[3:6]), covariance


def error(graph, truth):
    """RMSE of the windows' positions; the first one is fixed at the truth."""
    gaps = [graph.map_node[i].translation - t.translation for i, t in enumerate(truth)]
    return float(np.sqrt(np.mean(np.square(gaps).sum(1))))


def noisy(similarity: Sim3, rng: np.random.Generator, sigma: float) -> Sim3:
    """Return a similarity perturbed on the right."""
    return similarity @ Sim3(float(np.exp(sigma * rng.standard_normal())), so3_exp(sigma * rng.standard_normal(3)),
                             3 * sigma * rng.standard_normal(3))


def broken(rng, off, reference=39):
    """Graph of two submaps, the second begun at 40 where the chain broke, `off` (7,) sigmas from there; and truth."""
    truth, graph = laps(70, rng), PoseGraph()
    for i in range(70):
        if i == 0:
            graph.add_submap(i, truth[0])
        elif i == 40:
            x = np.sqrt(np.diag(BREAK)) * off
            unit = np.diag([1] * 3 + [1 / truth[i].scale] * 3 + [1.0])
            begins = truth[i] @ Sim3(float(np.exp(x[6])), so3_exp(x[:3]), x[3:6] / truth[i].scale)
            graph.add_submap(i, begins, reference, unit @ BREAK @ unit if reference is not None else None)
        else:
            graph.add_node(i, i - 1, truth[i - 1].inverse() @ truth[i], COVARIANCE / 20)
    return graph, truth


def lost(rng, stride=1):
    """Graph of two submaps, the second begun at 40 by a camera that was lost, and truth."""
    truth, graph = laps(70, rng), PoseGraph(stride)
    astray = Sim3(0.4, so3_exp(np.array([0.5, 2.0, 0.3])), np.array([30.0, 5, 1]))
    for i in range(70):
        if i in (0, 40):
            graph.add_submap(i, astray @ truth[i] if i else truth[0])
        else:
            graph.add_node(i, i - 1, truth[i - 1].inverse() @ truth[i], COVARIANCE / 20)
    return graph, truth


def offer(graph, truth, rng, first, second, shift=None, images=1):
    """Add a loop with noise, true or, by a `shift` of the map, false."""
    true = truth[first].inverse() @ (shift or Sim3.identity()) @ truth[second]
    relation, covariance = measured(true, LOOP, truth[second].scale, rng)
    return graph.add_loop(first, second, relation, covariance, images=images)


def look_alike(truth, first, second):
    """The shift of the map by which one window sees another one, by which it does not."""
    return truth[first] @ truth[second].inverse()
