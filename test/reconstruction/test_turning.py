"""Turns: windows that join a local map whose newest points are badly known, and the rows of images that are turned."""

from dataclasses import replace

import numpy as np
import pytest

from vggt_ros.geometry.poses import rotation_angle, so3_exp, umeyama
from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions, Scene
from vggt_ros.reconstruction.adjustment.lens import Lens, distorted
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.reconstruction.adjustment.triangulation import triangulate_and_adjust
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.multiview.matching.features import Features
from vggt_ros.reconstruction.multiview.matching.refine import refine
from vggt_ros.reconstruction.multiview.matching.views import Measurements, View
from vggt_ros.reconstruction.multiview.sfm.continuation import known_part, solve_continued
from vggt_ros.reconstruction.multiview.sfm.local_map import LocalMap
from vggt_ros.reconstruction.multiview.sfm.quality import NO_METRICS, first_accepted
from vggt_ros.reconstruction.multiview.sfm.start_poses import joined_poses
from vggt_ros.reconstruction.multiview.sfm.turn import with_turned_views
from vggt_ros.reconstruction.multiview.sfm.turn_rates import image_motion_of_turning, with_turn_rates
from vggt_ros.reconstruction.multiview.sfm.window_solution import WindowSolution
from vggt_ros.windows.keyframe import Keyframe

FOCAL, CENTER, SHAPE = 300.0, np.array([160.0, 120.0]), (240, 320)
INTRINSICS = np.array([[FOCAL, 0, CENTER[0]], [0, FOCAL, CENTER[1]], [0, 0, 1]])


def view(number: int) -> View:
    """Return a view without texture that does not move."""
    gray = np.zeros(SHAPE, np.uint8)
    keyframe = Keyframe(number, number, np.zeros((*SHAPE, 3), np.uint8), INTRINSICS)
    return View(keyframe, Features(gray, gray, np.zeros((0, 2), np.float32), INTRINSICS), np.zeros((18, 24, 2)))


def world(count: int, points: int, seed: int = 0) -> Scene:
    """Return cameras along a line that turn a little, and points in front of them."""
    rng = np.random.default_rng(seed)
    rotation = np.array([so3_exp(np.array([0.01, 0.03, -0.02]) * i) for i in range(count)])
    centers = np.outer(np.arange(count), [0.2, 0.02, 0.01])
    x, y = rng.uniform(-0.4, 0.6, points), rng.uniform(-0.35, 0.35, points)
    z = rng.uniform(2, 5, points)
    return Scene(rotation, -np.einsum("sij,sj->si", rotation, centers), np.stack([x * z, y * z, z], 1),
                 np.full((count, 2), FOCAL))


def tracks_of(scene: Scene) -> np.ndarray:
    """Return where the points are in the images (n, S, 2)."""
    return scene.residuals(np.zeros((len(scene.points), len(scene.rotation), 2))) + CENTER


def part(scene: Scene, first: int, last: int) -> Scene:
    """Return the scene with some of its cameras."""
    return Scene(scene.rotation[first:last], scene.translation[first:last], scene.points, scene.focal[first:last])


def test_a_window_joins_by_the_points_that_are_known_well():
    """Window of cameras 3 to 7 in another frame and unit, local map of 0 to 5.

    Two thirds of the points of the local map are seen from two cameras next to each other only, and a third as far
    away as they are. Poses are exact all the same, for the rest is known from everywhere.
    """
    truth, views = world(8, 120), [view(i) for i in range(8)]
    tracks = tracks_of(truth)
    known, badly = tracks[:, :6].copy(), np.arange(120) % 3 > 0
    known[badly, :4] = np.nan
    points = truth.points.copy()
    camera = truth.centers()[5]
    points[badly] = camera + 0.35 * (points[badly] - camera)
    before = part(truth, 0, 6)
    local = LocalMap(tuple(views[:6]), Scene(before.rotation, before.translation, points, before.focal), known,
                     np.zeros(120, np.intp), {}, 1.0)
    turn, unit, shift = so3_exp(np.array([0.3, -0.2, 0.5])), 0.4, np.array([1.0, 2.0, -1.0])
    window = part(truth, 3, 8)
    centers = unit * window.centers() @ turn.T + shift
    rotation = window.rotation @ turn.T
    own = Scene(rotation, -np.einsum("sij,sj->si", rotation, centers), unit * truth.points @ turn.T + shift,
                window.focal)
    observations = tracks[:, 3:] - CENTER
    solved = SparseReconstruction(own, np.ones(5, bool), np.ones((120, 5), bool), observations, (0, 4))
    found = joined_poses(local, (Measurements(views[3:], tracks[:, 3:], 0.0, Lens()), solved), views)
    assert found.known.tolist() == [False] * 3 + [True] * 5
    for i in range(3, 8):
        assert rotation_angle(found.rotation[i] @ truth.rotation[i].T) < 1e-6
        assert -found.rotation[i].T @ found.translation[i] == pytest.approx(truth.centers()[i], abs=0.02)


@pytest.mark.parametrize("readout", [0.03, 0.0])
def test_a_turn_that_the_tracker_did_not_see_is_found_in_the_rows(readout):
    """The last view turns by (0.5, -0.3, 0.4) rad/s, which shifts its rows; without a readout, nothing is estimated."""
    scene, rate = world(5, 150), np.array([0.5, -0.3, 0.4])
    views, tracks = [view(i) for i in range(5)], tracks_of(scene)
    ratio = (tracks[:, 4] - CENTER) / FOCAL
    delay = readout * (tracks[:, 4, 1] / SHAPE[0] - 0.5)
    tracks[:, 4] += delay[:, None] * (image_motion_of_turning(ratio, np.full(2, FOCAL)) @ rate)
    tracks += np.random.default_rng(1).normal(0, 0.2, tracks.shape)
    tracks[::10, 4] += 30  # outliers
    measured = Measurements(views, tracks, readout, Lens())
    solved = SparseReconstruction(scene, np.ones(5, bool), measured.visible, measured.observations, (0, 4))
    corrected = with_turn_rates(measured, solved, np.arange(150), [4])
    at_center = corrected.views[4].velocity[8:10, 11:13].mean((0, 1))
    expected = FOCAL * np.array([-rate[1], rate[0]]) if readout else np.zeros(2)
    assert at_center == pytest.approx(expected, abs=0.08 * FOCAL)
    assert all(corrected.views[i] is views[i] for i in range(4))


def test_image_motion_of_turning_is_that_of_a_turned_camera():
    """Against the projections of points before and after a small turn."""
    points, rate = world(1, 30).points, np.array([0.3, -0.2, 0.5])
    before = points[:, :2] / points[:, 2:]
    turned = points @ so3_exp(-rate * 1e-6).T
    motion = (turned[:, :2] / turned[:, 2:] - before) * 1e6 * FOCAL
    assert image_motion_of_turning(before, np.full(2, FOCAL)) @ rate == pytest.approx(motion, abs=1e-2)


def test_a_turn_on_the_spot_is_a_rotation_without_a_step():
    """Two views are turned by 8 and 16 degrees, a fifth of their tracks is wrong; the third shows something else."""
    scene, turn = world(5, 200), np.radians(8.0) * np.array([0.0, 1.0, 0.0])
    rotation, translation = scene.rotation.copy(), scene.translation.copy()
    for i, times in ((2, 1), (3, 2)):
        rotation[i], translation[i] = (so3_exp(times * turn) @ x for x in (scene.rotation[1], scene.translation[1]))
    truth = Scene(rotation, translation, scene.points, scene.focal)
    tracks, rng = tracks_of(truth), np.random.default_rng(2)
    tracks[::5, 2:4] += rng.uniform(-40, 40, (40, 2, 2))
    tracks[:, 4] = rng.uniform(0, 240, (200, 2))
    tracks[50:, 0] = np.nan  # both views of the local map see the known points only
    views = [view(i) for i in range(5)]
    local = LocalMap(tuple(views[:2]), Scene(rotation[:2], translation[:2], scene.points[:50], scene.focal[:2]),
                     tracks[:50, :2], np.zeros(50, np.intp), {}, 1.0)
    measured = Measurements(views, tracks, 0.0, Lens())
    solved, reference = known_part(local, measured)
    assert solved.registered.tolist() == [True, True, False, False, False] and len(reference) == 200
    found = with_turned_views(solved, measured)
    assert found.registered.tolist() == [True, True, True, True, False]
    for i in (2, 3):
        assert rotation_angle(found.scene.rotation[i] @ rotation[i].T) < np.radians(0.2)
        assert found.scene.centers()[i] == pytest.approx(scene.centers()[1])
    assert found.inliers[:50, 2].sum() > 30 and not found.inliers[50:, 2].any()


def test_known_keyframes_that_moved_are_revised():
    """Of a local map of 11 views with 5 new ones those are free from the seventh on; 0.5 degrees are not news."""
    scene, views = world(16, 60), [view(i) for i in range(16)]
    tracks = tracks_of(scene)
    measured = Measurements(views, tracks, 0.0, Lens())
    before = part(scene, 0, 11)
    local = LocalMap(tuple(views[:11]), before, tracks[:, :11], np.zeros(60, np.intp), {}, 1.0)
    for degrees, expected in ((0.5, ()), (3.0, tuple(v.keyframe.id for v in views[5:11]))):
        rotation = scene.rotation.copy()
        rotation[9] = so3_exp(np.radians([0.0, degrees, 0.0])) @ rotation[9]
        moved = Scene(rotation, -np.einsum("sij,sj->si", rotation, scene.centers()), scene.points, scene.focal)
        solved = SparseReconstruction(moved, np.ones(16, bool), measured.visible, measured.observations, (0, 1))
        solution = WindowSolution(measured, solved, np.zeros(60, np.intp), NO_METRICS, 0.0, local, held=6)
        assert solution.revised() == expected
    assert replace(solution, before=None).revised() == ()


@pytest.mark.parametrize(("third", "registered_alone", "wrong"), [
    (10, False, True),  # the two newest agree with each other, and with hardly any other keyframe
    (10, True, False),  # the window by itself has them, too
    (40, False, False),  # a third keyframe agrees
])
def test_new_keyframes_that_only_agree_with_each_other_are_contradicted_by_the_window_alone(third, registered_alone,
                                                                                            wrong):
    scene, views = world(12, 60), [view(i) for i in range(12)]
    tracks = tracks_of(scene)
    measured = Measurements(views, tracks, 0.0, Lens())
    local = LocalMap(tuple(views[:8]), part(scene, 0, 8), tracks[:, :8], np.zeros(60, np.intp), {}, 1.0)
    inliers = np.zeros_like(measured.visible)
    inliers[:third] = True
    inliers[third:, 10:] = True
    solved = SparseReconstruction(scene, np.ones(12, bool), inliers, measured.observations, (0, 1))
    continued = WindowSolution(measured, solved, np.zeros(60, np.intp), NO_METRICS, 0.0, local, held=4)
    in_window = Measurements(views[7:], tracks[:, 7:], 0.0, Lens())
    registered = np.array([True, True, True, registered_alone, registered_alone])
    by_itself = SparseReconstruction(part(scene, 7, 12), registered, in_window.visible, in_window.observations, (0, 1))
    alone = WindowSolution(in_window, by_itself, np.zeros(60, np.intp), NO_METRICS, 0.0)
    newest = {views[i].keyframe.id for i in (10, 11)}
    assert continued.contradicted(alone) == (newest if wrong else set())


@pytest.mark.parametrize(("radial", "outdated"), [(0.0, False), (0.004, False), (0.006, True), (-0.006, True)])
def test_what_was_solved_with_another_distortion_is_revised(radial, outdated):
    """All of the local map after its first view, though nothing moved; not if its poses were held, as in a turn."""
    scene, views = world(16, 60), [view(i) for i in range(16)]
    tracks = tracks_of(scene)
    measured = Measurements(views, tracks, 0.0, Lens(radial=radial, radial_sigma=0.001))
    local = LocalMap(tuple(views[:11]), part(scene, 0, 11), tracks[:, :11], np.zeros(60, np.intp), {}, 1.0)
    assert local.is_outdated(radial) == outdated
    moved = replace(scene, radial=radial - measured.lens.applied)
    solved = SparseReconstruction(moved, np.ones(16, bool), measured.visible, measured.observations, (0, 1))
    solution = WindowSolution(measured, solved, np.zeros(60, np.intp), NO_METRICS, 0.0, local, held=1)
    assert solution.revised() == (local.ids if outdated else ()) and solution.is_recalibrated == outdated
    held = replace(solution, held=11)
    assert held.revised() == () and not held.is_recalibrated and held.radial == 0.0


@pytest.mark.parametrize("spoiled", [None, 0, 3])
def test_a_known_keyframe_that_loses_most_of_its_points_refuses_the_solution(spoiled):
    """The observations of one are 25 px off. It would be placed anew anywhere; view 0 holds the frame and the unit."""
    scene, views = world(12, 200), [view(i) for i in range(12)]
    tracks = tracks_of(scene)
    if spoiled is not None:
        tracks[:, spoiled] += np.random.default_rng(1).normal(0, 25.0, (200, 2))
    local = LocalMap(tuple(views[:8]), part(scene, 0, 8), tracks[:, :8], np.zeros(200, np.intp), {}, 1.0)
    measured = Measurements(views, tracks, 0.0, Lens(radial_sigma=0.02, focal_sigma=0.02))  # nothing but view 0 is held
    if spoiled is None:
        _, solved, *_, held = solve_continued(local, measured)
        assert held == 1 and solved.inliers.all()
    else:
        with pytest.raises(ReconstructionRefused):
            solve_continued(local, measured)


def test_observations_of_plain_surfaces_are_kept_as_tracked_if_asked_for():
    """The images have no texture at all: no patch can be aligned."""
    scene, views = world(5, 80), [view(i) for i in range(5)]
    measured = Measurements(views, tracks_of(scene), 0.0, Lens())
    inliers = measured.visible.copy()
    inliers[::7, 3] = False
    for keep_plain in (False, True):
        observations, valid, reference = refine(scene, measured, inliers, keep_plain=keep_plain)
        only_reference = np.arange(5) == reference[:, None]
        assert np.array_equal(valid, inliers if keep_plain else only_reference)
        assert np.array_equal(observations, measured.observations)


@pytest.mark.parametrize(("refused", "expected"), [((), [False]), ((False,), [False, True])])
def test_plain_surfaces_are_a_second_resort(refused, expected):
    tried = []

    def solve(keep_plain):
        tried.append(keep_plain)
        if keep_plain in refused:
            raise ReconstructionRefused("refused")
        return keep_plain

    assert first_accepted(solve) == expected[-1] and tried == expected


def test_of_two_refusals_the_first_one_is_reported():
    def solve(keep_plain):
        raise ReconstructionRefused(f"with plain surfaces: {keep_plain}")

    with pytest.raises(ReconstructionRefused, match="False"):
        first_accepted(solve)


def test_a_distortion_that_becomes_known_corrects_the_poses_before():
    """The local map was solved without a distortion of 4 % at one focal length; with it all of its views are free."""
    truth, views = world(12, 300), [view(i) for i in range(12)]
    exact = tracks_of(truth) - CENTER
    tracks = distorted(exact, truth.focal, -0.04) + CENTER
    plain, seen = Measurements(views[:9], tracks[:, :9], 0.0, Lens()), np.ones(9, bool)
    scene, inliers = triangulate_and_adjust(part(truth, 0, 9), plain.observations, plain.visible, seen, 0,
                                            AdjustmentOptions(50))
    local = LocalMap(tuple(views[:9]), scene, np.where(inliers[..., None], tracks[:, :9], np.nan),
                     np.full(300, 4), {}, 1.0)

    def error(solution):
        centers, target = solution.centers()[:9], truth.centers()[:9]
        return np.linalg.norm(umeyama(centers, target).apply(centers) - target, axis=1).max()

    lens = Lens(radial=-0.04, radial_sigma=0.003)
    _, solved, _, _, held = solve_continued(local, Measurements(views, tracks, 0.0, lens))
    assert held == 1 and solved.registered.all()
    assert error(solved.scene) < 0.2 * error(scene)
    assert solve_continued(replace(local, radial=-0.04), Measurements(views, tracks, 0.0, lens))[4] == 2
