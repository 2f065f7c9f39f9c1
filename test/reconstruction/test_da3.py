"""Depth Anything 3 as a reconstructor: conventions by exact geometry, weights, memory, known poses, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
pytest.importorskip("depth_anything_3", reason="depth-anything-3 is not installed")
pytest.importorskip("omegaconf", reason="omegaconf is not installed")

from da3_oracle import Da3Oracle
from scenes import lap, run, trajectory_error
from test_vggt_memory import peak_allocated
from tiny_da3 import TINY, da3_config, tiny_da3, tiny_state, write_da3
from tiny_vggt import tiny_window

from vggt_ros.benchmarks.check import conformance
from vggt_ros.benchmarks.check.conformance_geometry import (
    RenderedWindow,
    check_confidence,
    check_depth,
    check_intrinsics,
    check_poses,
)
from vggt_ros.benchmarks.check.machine import GREEN, RED
from vggt_ros.config import Config
from vggt_ros.geometry.poses import inverse, pose, rotation_angle, so3_exp
from vggt_ros.reconstruction import create, create_reconstructor
from vggt_ros.reconstruction.base import ReconstructionRefused, ReconstructorUnavailable
from vggt_ros.reconstruction.da3 import memory, network, rule, weights
from vggt_ros.reconstruction.da3.decoding import Output, decode
from vggt_ros.reconstruction.da3.known_poses import PosesUnknown, in_network_units, known_poses
from vggt_ros.reconstruction.da3.reconstructor import Da3
from vggt_ros.reconstruction.da3.sizes import Sizes
from vggt_ros.reconstruction.vggt.checkpoints.weight_files import WeightsError
from vggt_ros.reconstruction.vggt.device_errors import DeviceUnsuitable
from vggt_ros.settings import ConfigError
from vggt_ros.synthetic import room
from vggt_ros.windows.keyframe import Keyframe, Window


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("da3")
    write_da3(folder)
    return folder


# Conventions.

def test_exact_geometry_passes_the_conformance_test():
    """Encoded by the package, decoded by us: axes, identity, z, one unit, intrinsics, ranks are as they must be."""
    scene = RenderedWindow()
    oracle = Da3Oracle(room(texel=0.008), [i * 10**8 for i in range(8)], scene.poses)
    oracle.image_size = lambda camera: (322, 238)
    geometry = oracle.reconstruct(conformance._window(scene, oracle))
    for check in (check_poses, check_intrinsics, check_depth, check_confidence):
        (finding,) = check(geometry, scene, Config())
        assert finding.level == GREEN, finding.text
    wrong = replace(geometry, window_camera=np.array([inverse(one) for one in geometry.window_camera]))
    assert next(iter(check_poses(wrong, scene, Config()))).level == RED


class Recorder(Da3Oracle):
    """Records the poses that are known before each window, and how far they are off: radians, and typical distances."""

    before = None

    def reconstruct(self, window):
        geometry = super().reconstruct(window)
        try:
            known = in_network_units(known_poses(window, self.before))
            true = in_network_units(geometry.window_camera)
            self.found.append((max(rotation_angle(a[:3, :3].T @ b[:3, :3]) for a, b in zip(known, true, strict=True)),
                               np.linalg.norm((known - true)[:, :3, 3], axis=1).max()))
        except PosesUnknown as reason:
            self.unknown.append(str(reason))
        self.before = geometry
        return geometry


def test_the_map_from_exact_network_output_is_exact():
    """A part of a lap with another scale and another world in each window: the error is below 1e-3 of the scene.

    The poses that the network could be given are those of the tracker, in the unit that the package wants.
    """
    oracle = lap().oracle(kind=Recorder)
    oracle.found, oracle.unknown = [], []
    slam = run(replace(lap(), frames=lap().frames[:60]), Config(), oracle).slam
    assert oracle.unknown[0] == "there is no window before" and len(oracle.unknown) == 2, oracle.unknown
    assert oracle.found
    assert max(turn for turn, _ in oracle.found) < 0.01 and max(far for _, far in oracle.found) < 0.05
    stamps, poses = slam.solution.trajectory(0)
    size = float(np.ptp(lap().world_camera[:, :3, 3], axis=0).max())
    assert slam.counts.submaps == 1 and len(stamps) >= 8 and trajectory_error(stamps, poses, lap())[0] < 1e-3 * size


def output(count=3, focal=60.0):
    intrinsics = np.tile(np.array([[focal, 0, 35], [0, focal, 28], [0, 0, 1]], np.float32), (count, 1, 1))
    poses = np.array([pose(so3_exp(np.array([0, 0.1 * i, 0])), [0.1 * i, 0, 0.05])[:3] for i in range(count)])
    return Output(poses.astype(np.float32), intrinsics, np.full((count, 56, 70), 2, np.float32),
                  np.full((count, 56, 70), 128, np.uint8))


def test_what_makes_no_sense_is_refused_and_what_is_doubtful_is_less_certain():
    window, good = tiny_window(), output()
    assert decode(good, window, {}).uncertainty == 1
    for change, words in (({"camera_world": good.camera_world * np.nan}, "not finite"),
                          ({"depth": good.depth * np.nan}, "no depth"),
                          ({"intrinsics": good.intrinsics * np.array([1, 2, 4])[:, None, None]}, "spread by")):
        with pytest.raises(ReconstructionRefused, match=words):
            decode(replace(good, **change), window, {})
    spread = good.intrinsics * np.array([1, 1.1, 0.95])[:, None, None]
    doubtful = decode(replace(good, intrinsics=spread.astype(np.float32)), window, {})
    assert doubtful.uncertainty > 4 and "focal lengths" in doubtful.notes[0]


# Weights.

def test_a_file_that_is_something_else_is_named(folder, tmp_path):
    state = tiny_state()
    cases = {
        "no camera head, as DA3METRIC": {name: one for name, one in state.items() if not name.startswith("cam_")},
        "1 missing, first cam_dec.fc_t.weight": {n: one for n, one in state.items() if n != "cam_dec.fc_t.weight"},
        "infinite values in 1 tensors, first model.cam_dec.fc_t.bias": {
            **state, "cam_dec.fc_t.bias": torch.full((3,), torch.inf)},
        r"1 of another shape, first cam_dec.fc_t.bias \(\(4,\) instead of \(3,\)\)": {
            **state, "cam_dec.fc_t.bias": torch.zeros(4)},
        "quantized weights are not supported": {
            **state, "cam_dec.fc_t.bias": torch.zeros(3, dtype=torch.int8)},
        "nested network": {f"da3.{name}": one for name, one in state.items()}}
    for number, (words, wrong) in enumerate(cases.items()):
        path = write_da3(tmp_path / str(number), wrong)
        if "camera head" in words or "nested" in words:
            (path.parent / "config.json").write_text(json.dumps({"model_name": "da3-small"}))
        with pytest.raises(WeightsError, match=f"da3.weights: .*{words}"):
            tiny_da3(path.parent)
    (tmp_path / "0" / "config.json").write_text(json.dumps({"sizes": {"embed_dim": 100}}))
    with pytest.raises(WeightsError, match=r"config\.json does not contain valid network sizes"):
        tiny_da3(tmp_path / "0")
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ConfigError, match=r"da3.weights: .*model.pt is not a file of the kind .safetensors"):
        create_reconstructor(da3_config(tmp_path / "model.pt"))


def test_unknown_tensors_are_said_and_gaussians_are_not(folder, tmp_path, caplog):
    extra = {**tiny_state(), "backbone.pretrained.mask_token": torch.zeros(1, 64), "gs_head.norm.weight": torch.ones(4)}
    tiny_da3(write_da3(tmp_path, extra).parent)
    assert "1 tensors that the network does not have, first backbone.pretrained.mask_token" in caplog.text
    caplog.clear()
    weights._log_license("SMALL")
    assert not caplog.text
    weights._log_license("LARGE")
    assert "non-commercial" in caplog.text


def test_the_camera_encoder_is_loaded_only_where_poses_are_given(folder):
    assert tiny_da3(folder).network.cam_enc is None
    assert tiny_da3(folder, known_poses="tracked").network.cam_enc is not None
    assert not any("aux" in name for name, _ in tiny_da3(folder).network.named_parameters())


def test_what_cannot_run_says_why(folder, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceUnsuitable, match=r"da3\.device: cuda is configured"):
        tiny_da3(folder, device="cuda")
    with pytest.raises(ReconstructorUnavailable, match="finds no GPU"):
        create("da3", da3_config(folder, device="auto"), at_once=True)
    with pytest.raises(ReconstructorUnavailable, match=r"da3.weights: .*contains none of model\.safetensors"):
        create("da3", da3_config(tmp_path), at_once=True)
    assert create("da3", da3_config(folder), at_once=True).name == "da3"


# Windows.

def test_windows_that_cannot_be_solved_are_refused(folder):
    made, window = tiny_da3(folder), tiny_window()
    odd = replace(window, keyframes=tuple(replace(k, image=k.image[:50]) for k in window.keyframes))
    for wrong in (odd, replace(window, keyframes=window.keyframes[:1])):
        with pytest.raises(ReconstructionRefused, match="two or more images of one size in multiples of 14"):
            made.reconstruct(wrong)
    assert made.on_cpu and made.reconstruct(window).descriptors is None


def test_reduced_precision_is_near_full_precision(folder):
    exact, reduced = (tiny_da3(folder, dtype=kind).reconstruct(tiny_window()) for kind in ("float32", "bfloat16"))
    if np.array_equal(exact.depth, reduced.depth):
        pytest.skip("this CPU does not multiply bfloat16")
    assert np.median(np.abs(reduced.depth / exact.depth - 1)) < 0.05


GATED = replace(TINY, embed_dim=96, heads=3, gated=True)
MIDDLE = Sizes(384, 6, 6, 2, (2, 3, 4, 5), 64, (48, 96, 192, 384))


@pytest.mark.parametrize(("sizes", "frames", "height", "width", "chunk"), [
    (TINY, 8, 98, 126, 1), (GATED, 8, 98, 126, 8), (MIDDLE, 2, 98, 126, 1), (MIDDLE, 8, 98, 126, 8),
    (MIDDLE, 3, 196, 266, 1)])
def test_the_memory_model_matches_the_allocations(sizes, frames, height, width, chunk):
    """Never less, else a window that fits by the model would not fit; and at most 1.4 times as much."""
    made = network.build(sizes)
    network.drop_unused(made, False)
    made.head.chunk = chunk
    images = torch.rand(frames, 3, height, width)
    with torch.inference_mode():
        network.predict(made, images[:2])
        measured = peak_allocated(lambda: network.predict(made, images))
    model = memory.activation_bytes(sizes, frames, height, width, 4, chunk)
    assert measured < model < 1.4 * measured, model / measured


def test_a_window_that_does_not_fit_is_solved_in_parts(folder, monkeypatch):
    monkeypatch.setattr(Da3, "free_bytes", lambda self: self.needed_bytes(4, 56, 70) + 1)
    made = create("da3", da3_config(folder).replace({"alignment.max_rotation": 45.0, "alignment.max_translation": 1.0,
                                                     "alignment.max_scale": 1.0}))
    geometry = made.reconstruct(tiny_window(tuple(range(6))))
    assert geometry.report["parts"] == 3 and len(geometry.keyframe_ids) == 6
    assert "more than" in made.status_values["split"]


# Known poses.

def keyframes(tracked, calibrated=True):
    return tuple(Keyframe(i, i, np.zeros((56, 70, 3), np.uint8), np.eye(3), calibrated, map_camera=one)
                 for i, one in enumerate(tracked))


def motion(count):
    return np.array([pose(so3_exp(np.array([0.02, 0.1, -0.03]) * i), [0.3 * i, 0.02 * i * i, -0.1 * i])
                     for i in range(count)])


def before(folder, poses):
    geometry = tiny_da3(folder).reconstruct(tiny_window(tuple(range(len(poses)))))
    return replace(geometry, window_camera=poses)


def test_known_poses_continue_the_window_before_with_the_motion_of_the_tracker(folder):
    """Of keyframes 0 to 5, 3 to 5 shared, 6 and 7 are new; the map has another frame and another scale."""
    truth = motion(8)
    solved = before(folder, truth[:6])
    map_world = pose(so3_exp(np.array([0.5, -1.0, 0.2])), [3.0, 1, 2])
    in_map = [map_world @ one for one in truth]
    for one in in_map:
        one[:3, 3] *= 2.5
    window = Window(1, keyframes(in_map)[3:], (3, 4, 5))
    found = known_poses(window, solved)
    np.testing.assert_allclose(found, inverse(truth[3]) @ truth[3:], atol=1e-9)
    assert np.array_equal(found[0], np.eye(4)) or np.allclose(found[0], np.eye(4), atol=1e-12)
    without = list(in_map)
    without[6] = None
    for wrong, words in ((replace(window, shared=()), "no window before"),
                         (Window(1, keyframes(without)[3:], (3, 4, 5)), "keyframe 6 was not tracked"),
                         (Window(1, keyframes(in_map, False)[3:], (3, 4, 5)), "not calibrated"),
                         (Window(1, keyframes([None] * 5 + in_map[5:])[3:], (3, 4, 5)), "1 of its keyframes"),
                         (Window(1, keyframes([in_map[5]] * 6 + in_map[6:])[3:], (3, 4, 5)), "have not moved")):
        with pytest.raises(PosesUnknown, match=words):
            known_poses(wrong, solved)
    with pytest.raises(PosesUnknown, match="no window before"):
        known_poses(window, None)
    assert rotation_angle(found[-1][:3, :3]) > 0.3


def test_a_loop_window_is_not_continued(folder):
    """A window of older keyframes gets no poses, and the next window continues the one before it."""
    made = tiny_da3(folder, known_poses="tracked")
    made.reconstruct(tiny_window((3, 4, 5, 6)))
    newest = made._before
    loop = made.reconstruct(tiny_window((0, 1, 4, 5)))
    assert loop.report["poses_given"] == 0 and made._before is newest
    assert made.status_values["known poses"] == "given in 0 of 2 windows; last not: there is no window before"


def test_generated_weights_are_reproducible():
    first, second = (dict(rule.weights(TINY, seed)) for seed in (0, 0))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], one) for name, one in rule.weights(TINY, 1))
