"""The other solution of a window, its relief inverted: it is a minimum of its own, and it is not believed."""

import numpy as np
import pytest
from window_shape import cameras_of, shape_error

from vggt_ros.geometry.poses import so3_exp
from vggt_ros.reconstruction.multiview import selection
from vggt_ros.reconstruction.multiview.bundle import Scene
from vggt_ros.reconstruction.multiview.poses import Solved, refit, robust_cost
from vggt_ros.reconstruction.multiview.twin import reversed_relief, twin


def distant(seed: int, noise: float = 0.3) -> tuple[Scene, np.ndarray]:
    """Six cameras that move a little and turn, before shallow relief five times as far away; and what they see."""
    rng = np.random.default_rng(seed)
    rotation = np.array([so3_exp(0.02 * i * np.array([0.1, 1.0, 0.1])) for i in range(6)])
    centers = np.array([[0.05 * i, 0.01 * i, 0.01 * i] for i in range(6)])
    translation = -np.einsum("sij,sj->si", rotation, centers)
    points = rng.uniform([-1.2, -1, 4.0], [1.2, 1, 6.0], (150, 3))
    scene = Scene(rotation, translation, points, np.full((6, 2), 500.0))
    return scene, scene.residuals(np.zeros((150, 6, 2))) + noise * rng.standard_normal((150, 6, 2))


def solved_at(scene: Scene, observed: np.ndarray) -> Solved:
    placed, seen = np.ones(6, bool), np.ones(observed.shape[:2], bool)
    for iterations in (4, 15):
        scene, used = refit(scene, observed, seen, placed, 0, iterations)
    return Solved(scene, placed, used, observed, (0, 5))


@pytest.mark.parametrize("seed", range(3))
def test_the_twin_is_a_minimum_of_its_own_and_leads_back(seed: int) -> None:
    """Adjusted from the truth and from its twin: two solutions, and the wrong one's twin is the right one."""
    true, observed = distant(seed)
    seen = np.ones(observed.shape[:2], bool)
    right = solved_at(true, observed)
    wrong = solved_at(reversed_relief(right), observed)
    cost = robust_cost(right.scene, observed, seen, right.placed)
    assert not selection.same(right, wrong) and wrong.seen.mean() > 0.5, "else it would not be mistaken for the other"
    assert robust_cost(wrong.scene, observed, seen, wrong.placed) > 1.05 * cost
    again_cost, again = twin(wrong, observed, seen)
    assert selection.same(right, again) and again_cost == pytest.approx(cost, rel=1e-3)
    assert shape_error(cameras_of(again.scene), cameras_of(true))[0] < 0.1
    assert twin(right, observed, seen)[0] > cost


def test_what_was_found_twice_is_not_believed_if_its_twin_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first beginnings end in the wrong minimum and agree; a later one, in the right one, agrees with the twin."""
    true, observed = distant(0)
    right = solved_at(true, observed)
    wrong = solved_at(reversed_relief(right), observed)
    begun = iter([wrong, solved_at(wrong.scene, observed), right, None])
    monkeypatch.setattr(selection, "solve", lambda *_: next(begun))
    best, others = selection.choose(observed, np.ones(observed.shape[:2], bool), true.focal, [(0, 5)] * 4, 0)
    assert selection.same(best, right) and sum(selection.same(best, other) for other in others) == 1
    assert next(begun) is None, "no more than was needed"


def test_what_was_found_once_only_is_compared_with_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    true, observed = distant(0)
    right = solved_at(true, observed)
    wrong = solved_at(reversed_relief(right), observed)
    begun = iter([None, wrong, None])
    monkeypatch.setattr(selection, "solve", lambda *_: next(begun))
    best, others = selection.choose(observed, np.ones(observed.shape[:2], bool), true.focal, [(0, 5)] * 3, 0)
    assert selection.same(best, right) and others == [wrong]
