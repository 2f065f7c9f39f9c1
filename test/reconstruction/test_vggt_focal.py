"""Focal lengths that the network predicts: own or shared ones, doubts and refusals."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from scenes import SIZE, lap

from vggt_ros.reconstruction.base import ReconstructionRefused, WindowGeometry
from vggt_ros.reconstruction.vggt.output.decoding import decode, encode
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.synthetic import OracleNoise
from vggt_ros.windows.keyframe import Keyframe, Window


@pytest.fixture(scope="module", name="window")
def _window() -> Window:
    return Window(0, tuple(Keyframe(i, f.stamp, f.image, f.intrinsics, False)
                           for i, f in enumerate(lap().frames[:12:2])))


@pytest.fixture(scope="module", name="exact")
def _exact(window: Window) -> WindowGeometry:
    return lap().oracle(depth_width=SIZE[0], noise=OracleNoise(scale=0)).reconstruct(window)


def decoded(exact: WindowGeometry, window: Window, factors: list[float], focal: tuple[float, float] | None = None,
            aspect: float = 1.0) -> WindowGeometry:
    """Return a window whose predicted focal lengths are off by factors."""
    matrices = exact.intrinsics.copy()
    matrices[:, [0, 1], [0, 1]] *= np.array(factors)[:, None]
    matrices[:, 0, 0] *= aspect
    other = WindowGeometry(exact.keyframe_ids, exact.window_camera, matrices, exact.depth, exact.confidence)
    return decode(encode(other).filtered(VggtConfig()), window, focal)


def test_each_image_keeps_its_own_focal_length_unless_the_shared_one_is_better(exact, window) -> None:
    """The true focal length is taken from outside where the images' own are wrong, and a wrong one is not."""
    true = float(exact.intrinsics[0, 0, 0])
    wrong = decoded(exact, window, [1.0] * 6, focal=(1.2 * true, 1.2 * true))
    np.testing.assert_allclose(wrong.intrinsics[:, 0, 0], true, rtol=1e-5)
    better = decoded(exact, window, [1.04, 0.97, 1.03, 0.96, 1.02, 1.0], focal=(true, true))
    np.testing.assert_allclose(better.intrinsics[:, 0, 0], true, rtol=1e-5)


def test_focal_lengths_that_disagree_make_a_window_doubtful(exact, window) -> None:
    fine = decoded(exact, window, [1.0, 1.01, 0.99, 1.01, 0.99, 1.0])
    assert fine.uncertainty == 1
    assert fine.notes == ()
    spread = decoded(exact, window, [1.04, 0.96, 1.04, 0.96, 1.04, 0.96])
    assert spread.uncertainty == pytest.approx(4, rel=0.01)
    assert "spread by 4.0 %" in spread.notes[0]
    stretched = decoded(exact, window, [1.0] * 6, aspect=0.95)
    assert stretched.uncertainty > 5
    assert "0.950" in stretched.notes[0]


@pytest.mark.parametrize(("factors", "aspect", "reason"),
                         [([1.2, 0.8] * 3, 1.0, "spread by 20 %"), ([1.0] * 6, 0.59, "fx / fy is 0.59")])
def test_focal_lengths_that_cannot_be_are_refused(exact, window, factors, aspect, reason) -> None:
    """0.59 is what the network predicts at 322x238."""
    with pytest.raises(ReconstructionRefused, match=reason):
        decoded(exact, window, factors, aspect=aspect)


def test_pixels_of_a_calibrated_camera_need_not_be_square(exact, window) -> None:
    """A camera whose true fx / fy is 0.8 is not doubted because the network sees that."""
    stretch = np.array([[0.8], [1.0], [1.0]])
    calibrated = Window(0, tuple(Keyframe(k.id, k.stamp, k.image, k.intrinsics * stretch, True)
                                 for k in window.keyframes))
    assert decoded(exact, calibrated, [1.0] * 6, aspect=0.8).uncertainty == 1
