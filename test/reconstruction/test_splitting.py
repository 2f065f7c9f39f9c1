"""Any reconstructor that says what memory it needs gets its windows split; exact geometry is joined exactly."""

import numpy as np
import pytest
from scenes import lap

from vggt_ros import plugins
from vggt_ros.config import Config
from vggt_ros.geometry.poses import umeyama
from vggt_ros.reconstruction import create
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.splitting import SplittingReconstructor
from vggt_ros.windows.keyframe import Keyframe, Window


class Hungry:
    """Exact geometry, for which each image needs 1 GB; with more than `most` at once the memory runs out."""

    name = "hungry"
    free, most = 1e12, 100

    def __init__(self, config=None):
        self.oracle, self.solved, self.cleared = lap().oracle(), [], 0
        self.status_values = {"device": "staged"}

    def image_size(self, camera):
        return camera.width, camera.height

    def needed_bytes(self, count, height, width):
        return 1e9 * count

    def free_bytes(self):
        return self.free

    def clear_cache(self):
        self.cleared += 1

    def reconstruct(self, window):
        if len(window.keyframes) > self.most:
            raise MemoryError("cannot allocate 5 GB")
        self.solved.append(window.ids)
        return self.oracle.reconstruct(window)


def window(count=8):
    frames = lap().frames[:4 * count:4]
    return Window(0, tuple(Keyframe(i, f.stamp, f.image, f.intrinsics) for i, f in enumerate(frames)))


def error(geometry):
    """Return the largest error of camera centers after a similarity, over their extent."""
    truth = lap().world_camera[:32:4, :3, 3]
    centers = geometry.window_camera[:, :3, 3]
    return np.abs(umeyama(centers, truth).apply(centers) - truth).max() / np.ptp(truth, axis=0).max()


def test_what_does_not_fit_by_the_forecast_is_solved_in_parts():
    inner = Hungry()
    made = SplittingReconstructor(inner, Config())
    assert made.reconstruct(window()).report["parts"] == 1 and made.status_values == {"device": "staged"}
    inner.free, inner.solved = 6.5e9, []
    geometry = made.reconstruct(window())
    assert inner.solved == [(0, 1, 2, 3, 4, 5), (3, 4, 5, 6, 7)]
    assert geometry.keyframe_ids == tuple(range(8)) and geometry.report["parts"] == 2
    assert error(geometry) < 1e-3
    assert "8 images of" in made.status_values["split"] and made.status_values["device"] == "staged"
    inner.free, inner.solved = 1e12, []
    assert made.reconstruct(window()).report["parts"] == 1 and "split" not in made.status_values


def test_memory_that_runs_out_is_found_by_failing():
    inner = Hungry()
    inner.most = 6
    made = SplittingReconstructor(inner, Config())
    geometry = made.reconstruct(window())
    assert geometry.report["parts"] == 2 and inner.cleared == 1 and error(geometry) < 1e-3
    assert "memory ran out (cannot allocate 5 GB)" in made.status_values["split"]
    made.reconstruct(window())
    assert inner.cleared == 1, "it was tried again although no more memory is free"


def test_other_errors_and_refusals_pass():
    inner = Hungry()
    made = SplittingReconstructor(inner, Config())
    inner.free = 1.5e9
    with pytest.raises(ReconstructionRefused, match=r"2 images of .* need about 2\.00 GB.* use smaller images"):
        made.reconstruct(window())
    inner.free = 1e12
    inner.reconstruct = lambda window: (_ for _ in ()).throw(RuntimeError("a bug"))
    made = SplittingReconstructor(inner, Config())
    with pytest.raises(RuntimeError, match="a bug"):
        made.reconstruct(window())
    inner.is_out_of_memory = lambda error: "bug" in str(error)
    with pytest.raises(ReconstructionRefused, match=r"memory ran out \(a bug\), with two images"):
        made.reconstruct(window())


def test_a_plug_in_gets_it(monkeypatch):
    monkeypatch.setattr(plugins, "load_class", lambda name: Hungry)
    made = create("hungry", Config())
    assert isinstance(made, SplittingReconstructor) and made.name == "hungry" and made.free == 1e12
    assert not hasattr(made, "prepare")
