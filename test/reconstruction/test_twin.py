"""The twin solution of a window, its relief reversed: it is a local minimum of its own, and it is not selected."""

import numpy as np
import pytest
from window_shape import cameras_of, shape_error

from vggt_ros.geometry.poses import so3_exp
from vggt_ros.reconstruction.adjustment.bundle import AdjustmentOptions, Scene
from vggt_ros.reconstruction.adjustment.sparse_reconstruction import SparseReconstruction
from vggt_ros.reconstruction.adjustment.triangulation import triangulate_and_adjust
from vggt_ros.reconstruction.multiview.sfm import selection
from vggt_ros.reconstruction.multiview.sfm.poses import robust_cost
from vggt_ros.reconstruction.multiview.sfm.twin import reversed_relief, solve_twin


def distant(seed: int, noise: float = 0.3) -> tuple[Scene, np.ndarray]:
    """Return six cameras with a small motion in front of a distant, shallow relief, and their noisy observations."""
    rng = np.random.default_rng(seed)
    rotation = np.array([so3_exp(0.02 * i * np.array([0.1, 1.0, 0.1])) for i in range(6)])
    centers = np.array([[0.05 * i, 0.01 * i, 0.01 * i] for i in range(6)])
    translation = -np.einsum("sij,sj->si", rotation, centers)
    points = rng.uniform([-1.2, -1, 4.0], [1.2, 1, 6.0], (150, 3))
    scene = Scene(rotation, translation, points, np.full((6, 2), 500.0))
    return scene, scene.residuals(np.zeros((150, 6, 2))) + noise * rng.standard_normal((150, 6, 2))


def solved_at(scene: Scene, observations: np.ndarray) -> SparseReconstruction:
    registered, visible = np.ones(6, bool), np.ones(observations.shape[:2], bool)
    for iterations in (4, 15):
        scene, inliers = triangulate_and_adjust(scene, observations, visible, registered, 0,
                                                AdjustmentOptions(iterations))
    return SparseReconstruction(scene, registered, inliers, observations, (0, 5))


@pytest.mark.parametrize("seed", range(3))
def test_the_twin_is_a_local_minimum_and_its_twin_is_the_true_solution(seed: int) -> None:
    """Optimized from the ground truth and from its twin: two solutions; the twin of the wrong one is the right one."""
    true, observations = distant(seed)
    visible = np.ones(observations.shape[:2], bool)
    right = solved_at(true, observations)
    wrong = solved_at(reversed_relief(right), observations)
    cost = robust_cost(right.scene, observations, visible, right.registered)
    assert not selection.same_solution(right, wrong) and wrong.inliers.mean() > 0.5, "the twin is not plausible enough"
    assert robust_cost(wrong.scene, observations, visible, wrong.registered) > 1.05 * cost
    again_cost, again = solve_twin(wrong, observations, visible)
    assert selection.same_solution(right, again) and again_cost == pytest.approx(cost, rel=1e-3)
    assert shape_error(cameras_of(again.scene), cameras_of(true))[0] < 0.1
    assert solve_twin(right, observations, visible)[0] > cost


def test_a_solution_found_twice_is_not_selected_if_its_twin_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first initial pairs agree on the wrong minimum; a later one ends in the right one, as the twin does."""
    true, observations = distant(0)
    right = solved_at(true, observations)
    wrong = solved_at(reversed_relief(right), observations)
    results = iter([wrong, solved_at(wrong.scene, observations), right, None])
    monkeypatch.setattr(selection, "solve_from_pair", lambda *_: next(results))
    best, others = selection.select_best(observations, np.ones(observations.shape[:2], bool), true.focal,
                                         [(0, 5)] * 4, 0)
    assert selection.same_solution(best, right) and sum(selection.same_solution(best, other) for other in others) == 1
    assert next(results) is None, "more initial pairs are tried than necessary"


def test_a_solution_found_only_once_is_compared_with_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    true, observations = distant(0)
    right = solved_at(true, observations)
    wrong = solved_at(reversed_relief(right), observations)
    results = iter([None, wrong, None])
    monkeypatch.setattr(selection, "solve_from_pair", lambda *_: next(results))
    best, others = selection.select_best(observations, np.ones(observations.shape[:2], bool), true.focal,
                                         [(0, 5)] * 3, 0)
    assert selection.same_solution(best, right) and others == [wrong]
