"""Weights from real files, and the reconstructor that uses them."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

from tiny_vggt import CPU, TINY, tiny_config, tiny_network, tiny_state, tiny_vggt, tiny_window, write_weights

from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.base import ReconstructionRefused
from vggt_ros.reconstruction.vggt.checkpoints import rule, weight_files, weights
from vggt_ros.reconstruction.vggt.checkpoints.weight_files import WeightsError
from vggt_ros.reconstruction.vggt.comparison.parity import relative_error
from vggt_ros.reconstruction.vggt.comparison.reference import run_reference
from vggt_ros.reconstruction.vggt.device_errors import DeviceUnsuitable
from vggt_ros.reconstruction.vggt.model.sizes import Sizes
from vggt_ros.reconstruction.vggt.reconstructor import Vggt
from vggt_ros.reconstruction.vggt.runtime import memory
from vggt_ros.settings import ConfigError


@pytest.fixture(scope="module", name="state")
def _state():
    return tiny_state()


@pytest.fixture(name="folder")
def _folder(tmp_path):
    """A folder like a repository of the hub."""
    write_weights(tmp_path)
    return tmp_path


def test_both_formats_load_the_same(folder, state, tmp_path):
    torch.save(state, tmp_path / "other.pt")
    images = torch.from_numpy(rule.images(2, 28, 42))
    with torch.inference_mode():
        a, b = (weights.load(path, CPU)(images) for path in (weight_files.find(str(folder)), tmp_path / "other.pt"))
        c = tiny_network()(images)
    for name, value in c.items():
        assert torch.equal(a[name], value)
        assert torch.equal(b[name], value)


def test_the_cache_of_the_hub_is_used_offline(folder, tmp_path, monkeypatch):
    """Without network, cached weights load; for others the error names the cure."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit, repository = "a" * 40, tmp_path / "cache" / "models--facebook--VGGT-1B"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for name in ("model.safetensors", "config.json"):
        (folder / name).rename(repository / "snapshots" / commit / name)
    path = weight_files.find("facebook/VGGT-1B", download=False, cache=tmp_path / "cache")
    assert weights.load(path, CPU).sizes == TINY
    assert weight_files.find("facebook/VGGT-1B", download=True, cache=tmp_path / "cache") == path
    for download, cure in ((True, "could not be downloaded.*: connect once"), (False, "in the cache: start the node")):
        with pytest.raises(WeightsError, match=rf"{cure}.*, or copy model\.safetensors"):
            weight_files.find("facebook/VGGT-1B-Commercial", download, cache=tmp_path / "cache")


def test_the_error_of_a_gated_repository_without_a_token_names_the_page(tmp_path, monkeypatch):
    """The response of the hub is simulated."""
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_, **__):
        raise GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(WeightsError, match=r"gated: apply at https://huggingface\.co/facebook/VGGT-1B-Commercial"):
        weight_files.find("facebook/VGGT-1B-Commercial", cache=tmp_path)


def test_the_error_names_a_path_without_weights(folder, tmp_path):
    for source, message in ((tmp_path / "none.pt", "does not exist"), ("nothing", "does not exist"),
                            (tmp_path / "config.json", r"not a file of the kind \.pt or \.safetensors")):
        with pytest.raises(WeightsError, match=message):
            weight_files.find(str(source))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"contains none of model\.safetensors"):
        weight_files.find(str(tmp_path / "empty"))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_the_error_names_a_truncated_file(folder, state, suffix):
    path = folder / f"model.{suffix}"
    if suffix == "pt":
        torch.save(state, path)
    content = path.read_bytes()
    for length in (len(content) // 2, 4, 0):
        path.write_bytes(content[:length])
        with pytest.raises(WeightsError, match="may be truncated"):
            weights.load(path, CPU)


def test_code_in_a_pickle_is_not_executed(folder, tmp_path):
    class Bad:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"aggregator.camera_token": Bad()}, folder / "bad.pt")
    with pytest.raises(WeightsError, match="cannot be read"):
        weights.load(folder / "bad.pt", CPU)
    assert not (tmp_path / "ran").exists()


def test_the_error_of_another_architecture_names_the_first_tensors(folder, state):
    wrong = dict(state)
    del wrong["camera_head.embed_pose.bias"]
    wrong["aggregator.camera_token"] = torch.zeros(1, 2, 1, 65)
    wrong["extra.weight"] = torch.zeros(1)
    torch.save(wrong, folder / "wrong.pt")
    with pytest.raises(WeightsError) as error:
        weights.load(folder / "wrong.pt", CPU)
    for part in ("1 missing, first camera_head.embed_pose.bias", "1 not known, first extra.weight",
                 "1 of another shape, first aggregator.camera_token ((1, 2, 1, 65) instead of (1, 2, 1, 64))"):
        assert part in str(error.value)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"put a config\.json"):
        weights.load(folder / "model.safetensors", CPU)


def test_a_head_that_nobody_asked_for_may_be_missing(folder, state, tmp_path):
    part = {name: value for name, value in state.items() if not name.startswith(("point_head.", "track_head."))}
    torch.save(part, folder / "part.pt")
    assert not hasattr(weights.load(folder / "part.pt", CPU), "point_head")
    with pytest.raises(WeightsError, match=r"62 missing, first point_head\.norm\.weight"):
        weights.load(folder / "part.pt", CPU, outputs=("cameras", "depth", "points"))
    torch.save({name: value for name, value in part.items() if not name.startswith("depth_")}, folder / "no.pt")
    with pytest.raises(WeightsError, match=r"missing, first depth_head\.norm\.weight"):
        weights.load(folder / "no.pt", CPU)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_the_error_names_integer_weights(folder, state, suffix):
    """Quantized weights, which other programs write under the same names."""
    name = "aggregator.frame_blocks.1.attn.qkv.weight"
    changed = {**state, name: (100 * state[name]).to(torch.int8)}
    torch.save(changed, folder / "model.pt") if suffix == "pt" else safetensors.save_file(
        changed, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"not floating point numbers, first {re.escape(name)} \((I8|int8)\)"):
        weights.load(folder / f"model.{suffix}", CPU)


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "float32"), (np.inf, "bfloat16"), (1e6, "float16")])
def test_the_error_names_weights_that_are_not_finite(folder, state, value, kind):
    """In the file, or in the type in which they are stored."""
    name = "aggregator.global_blocks.2.mlp.fc1.weight"
    changed = state[name].clone()
    changed[3, 4] = value
    safetensors.save_file({**state, name: changed}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"infinite values in 1 tensors, first {re.escape(name)} \(as {kind}\)"):
        weights.load(folder / "model.safetensors", CPU, getattr(torch, kind))


@pytest.mark.parametrize("content", [
    '{"embed_dim": 1000000000}', '{"depth": 100000000}', '{"embed_dim": "1024"}', '{"embed_dim": [1024]}',
    '{"heads": 0}', '{"heads": -16}', '{"patch": 16}', '{"taps": [4, 11, 17, -1]}', '{"taps": [4, 11, 17, 1e3]}',
    '{"out_channels": 256}', '{"depth": 24.5}', '{"depth": true}', "[1, 2]", "{", "\xff", "[" * 100000])
def test_a_config_with_impossible_sizes_is_refused_before_anything_is_built(folder, content, monkeypatch):
    (folder / "config.json").write_bytes(content.encode("latin-1"))

    def build(*_):
        raise AssertionError("built")

    monkeypatch.setattr(weights, "Network", build)
    with pytest.raises(WeightsError, match=r"config\.json does not contain valid network sizes"):
        weights.load(folder / "model.safetensors", CPU)


def test_the_error_names_a_wrong_size(folder):
    """Bytes too many, as of two downloads into one file."""
    path = folder / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"1234")
    with pytest.raises(WeightsError, match=f"has {size + 4} bytes, but by its header {size}; delete it"):
        weights.load(path, CPU)


def test_tracks_need_images_that_the_coarsest_map_can_hold(folder):
    with pytest.raises(ReconstructionRefused, match=r"tracks need images of 128 pix.* not 70x56; raise vggt\.width"):
        tiny_vggt(folder, outputs="depth,tracks").reconstruct(tiny_window())


def test_reused_tokens_change_nothing(folder):
    """Bit-identical results, whichever frames were in the window before."""
    first, second = tiny_window((0, 1, 2, 3)), tiny_window((2, 3, 4, 5))
    reuse, fresh = tiny_vggt(folder), tiny_vggt(folder, reuse_tokens=False)
    reuse.reconstruct(first)
    ours, theirs = reuse.reconstruct(second), fresh.reconstruct(second)
    assert (ours.report["reused_tokens"], theirs.report["reused_tokens"]) == (2, 0)
    assert np.array_equal(ours.depth, theirs.depth)
    assert np.array_equal(ours.window_camera, theirs.window_camera)
    assert np.array_equal(ours.descriptors, theirs.descriptors)
    np.testing.assert_allclose(np.linalg.norm(ours.descriptors, axis=1), 1, rtol=1e-5)


def test_the_reconstructor_decodes_the_network_output(folder):
    """Depth and the order of confidences are those of the network; calibrated intrinsics are those of the keyframes."""
    geometry = tiny_vggt(folder).reconstruct(tiny_window())
    images = torch.from_numpy(np.stack([k.image for k in tiny_window().keyframes])).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        raw = tiny_network()(images)
    np.testing.assert_allclose(geometry.depth, raw["depth"].numpy(), rtol=1e-5)
    assert geometry.keyframe_ids == (0, 1, 2)
    assert np.array_equal(geometry.intrinsics[0], tiny_window().keyframes[0].intrinsics)
    best = np.unravel_index(raw["depth_conf"].numpy().argmax(), geometry.depth.shape)
    assert geometry.confidence[best] == 1


def test_points_and_tracks_if_configured(folder):
    vggt = tiny_vggt(folder, outputs="depth,points,tracks")
    vggt.inference.run(tiny_window((0, 1), 266, 266).keyframes)
    assert vggt.inference.extra_outputs["world_points"].shape == (2, 266, 266, 3)
    assert vggt.inference.extra_outputs["track"].shape == (2, 64, 2)
    assert torch.equal(vggt.inference.extra_outputs["track"][0, 0], torch.tensor([16.0, 16.0]))
    plain = tiny_vggt(folder)
    plain.reconstruct(tiny_window())
    assert plain.inference.extra_outputs == {}
    assert not hasattr(plain.inference.network, "point_head")


def test_bfloat16_weights_cost_little_accuracy(folder):
    exact = tiny_vggt(folder).reconstruct(tiny_window())
    half = tiny_vggt(folder, dtype="bfloat16").reconstruct(tiny_window())
    ratio = half.depth / exact.depth
    assert 1e-7 < np.abs(np.log(ratio)).mean() < 0.02


def test_the_reference_mode_computes_the_same():
    """Keeping all layers and recomputing tables is slower, with the same results."""
    network, images = tiny_network(), torch.from_numpy(rule.images(2, 56, 70))
    with torch.inference_mode():
        plain = network(images, ("cameras", "depth", "points"))
    slow = run_reference(network, images, torch.float32)
    assert slow.keys() == plain.keys()
    for name, value in plain.items():
        assert relative_error(slow[name], value.numpy()) < 1e-6


def test_images_of_another_size_are_refused(folder):
    vggt = tiny_vggt(folder)
    for bad in (tiny_window(height=57), tiny_window((0,), height=57)):
        with pytest.raises(ReconstructionRefused, match="multiples of 14"):
            vggt.reconstruct(bad)
    assert vggt.image_size(Camera.assumed(640, 480, 60)) == (518, 392)


def test_the_error_of_a_missing_gpu_names_the_setting(folder):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceUnsuitable, match=re.escape("vggt.device: cuda is configured")):
        Vggt(tiny_config(folder, device="cuda"))
    with pytest.raises(ConfigError, match=re.escape("vggt.device: cuda is configured")):
        create_reconstructor(tiny_config(folder, device="cuda").replace({"reconstructor": "vggt"}))


def test_the_model_of_the_weights_memory_is_exact(folder):
    """The bytes of the loaded tensors, in both types; and the published number of parameters of VGGT-1B."""
    for dtype in (torch.float32, torch.bfloat16):
        network = weights.load(folder / "model.safetensors", CPU, dtype)
        loaded = sum(value.nbytes for value in network.state_dict().values())
        assert memory.weight_bytes(TINY, dtype, ("cameras", "depth")) == loaded
    assert memory.weight_bytes(Sizes(), torch.float32, ("cameras", "depth", "points", "tracks")) == 4 * 1_256_537_516
