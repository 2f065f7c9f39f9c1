"""Soft factors by the ground: drift in tilt and height is removed on a plane, and a ramp stays a ramp."""

import numpy as np
import pytest
from graphs import measured

from vggt_ros.geometry.poses import BODY_OPTICAL, Sim3, pose, so3_exp
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.pose_graph.planar import PlanarGround

UP = np.array([0.0, -1.0, 0.0])
GROUND = PlanarGround(UP, UP, np.radians(2.0), 0.1)
DRIVE = np.diag([0.001**2] * 3 + [0.01**2] * 3 + [0.001**2])
PITCH_DRIFT = np.radians(0.03)
"""Error of each relative pose, always in the same direction."""


def drive(count=200, step=0.75, ramp=(0, 0), slope=0.0, radius=100.0, unit=1.0):
    """Return the poses of a camera, optical axes, on a robot that drives in a circle, with a ramp at some nodes."""
    rotation, position, found = np.eye(3), np.zeros(3), []
    for index in range(count):
        pitch = slope if ramp[0] <= index < ramp[1] else 0.0
        heading = so3_exp(np.array([0.0, 0.0, step * index / radius]))
        rotation = heading @ so3_exp(np.array([0.0, -pitch, 0.0]))  # nose up
        found.append(Sim3(unit, (pose(rotation, position) @ BODY_OPTICAL)[:3, :3], position.copy()))
        position = position + step * rotation[:, 0]
    first = Sim3(1.0, found[0].rotation, found[0].translation).inverse()
    return [first @ one for one in found]


def solved(truth, ground, pitch_drift=PITCH_DRIFT, seed=0):
    """Return the poses (n, 4, 4) of a chain with noise, and with drift in pitch, after each window."""
    rng, graph = np.random.default_rng(seed), PoseGraph(5)
    bias = Sim3(1.0, so3_exp(np.array([pitch_drift, 0.0, 0.0])), np.zeros(3))
    graph.add_submap(0, truth[0])
    for node in range(1, len(truth)):
        relative = truth[node - 1].inverse() @ truth[node] @ bias
        graph.add_node(node, node - 1, *measured(relative, DRIVE, truth[node].scale, rng))
        if ground is not None and node % 10 == 0:
            graph.apply_ground(ground)
    return graph.poses(range(len(truth)))


def errors(poses, truth):
    """Return the errors of height, map units, and of tilt, degrees, of all nodes."""
    true = np.array([one.translation for one in truth])
    up = np.array([one.rotation.T @ UP for one in truth])
    rotations = poses[:, :3, :3] / np.linalg.norm(poses[:, :3, :1], axis=1)[:, None]
    tilt = np.degrees(np.arccos(np.clip(np.einsum("nji,j,ni->n", rotations, UP, up), -1, 1)))
    return np.abs((poses[:, :3, 3] - true) @ UP), tilt


@pytest.mark.parametrize("unit", [1.0, 0.2])
def test_drift_in_height_and_tilt_is_removed_on_a_plane(unit):
    truth = drive(unit=unit)
    height, tilt = errors(solved(truth, None), truth)
    assert height.max() > 5.0 and tilt.max() > 4.0
    height, tilt = errors(solved(truth, GROUND), truth)
    assert height.max() < 0.35 and tilt.max() < 1.3


def test_what_the_ground_does_not_tell_stays_as_the_windows_say():
    truth = drive()
    before, after = solved(truth, None, pitch_drift=0.0), solved(truth, GROUND, pitch_drift=0.0)
    assert np.linalg.norm((after - before)[:, [0, 2], 3], axis=1).max() < 0.5  # of 150 m

    def heading(poses):
        return np.unwrap(np.arctan2(poses[:, 0, 2], poses[:, 2, 2]))

    assert np.degrees(np.abs(heading(after) - heading(before)).max()) < 1.0


@pytest.mark.parametrize("degrees", [8.0, 12.0])
def test_a_ramp_beyond_the_sigma_stays_a_ramp(degrees):
    """20 m long, between two floors; without drift, so that any error is that of the factors."""
    truth = drive(ramp=(100, 127), slope=np.radians(degrees))
    climb = (truth[-1].translation - truth[0].translation) @ UP
    assert climb > 2.5
    height, tilt = errors(solved(truth, GROUND, pitch_drift=0.0), truth)
    plain = errors(solved(truth, None, pitch_drift=0.0), truth)
    assert height[-1] < 0.1 * climb + plain[0][-1]
    assert tilt[105:122].max() < 0.15 * degrees + plain[1].max()


def test_a_known_tilt_of_the_camera_is_no_tilt_of_the_robot():
    """A camera that looks down by 20 degrees, and a map whose world is that camera's frame."""
    mounting = Sim3(1.0, so3_exp(np.array([-np.radians(20.0), 0.0, 0.0])), np.zeros(3))
    truth = [mounting.inverse() @ one @ mounting for one in drive()]
    up = mounting.rotation.T @ UP
    tilted = PlanarGround(up, up, GROUND.tilt_sigma, GROUND.height_sigma)
    poses = solved(truth, tilted)
    height = np.abs((poses[:, :3, 3] - np.array([one.translation for one in truth])) @ up)
    assert height.max() < 0.35
