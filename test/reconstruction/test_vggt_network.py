"""The network compared with outputs and tensors of the published one."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from vggt_ros.cli.parity import main
from vggt_ros.reconstruction.vggt.checkpoints import rule
from vggt_ros.reconstruction.vggt.checkpoints.weights import tensor_shapes
from vggt_ros.reconstruction.vggt.comparison.parity import (
    bfloat16_errors,
    compare,
    pseudo_random_network,
    track_rounding_error,
)
from vggt_ros.reconstruction.vggt.model import blocks
from vggt_ros.reconstruction.vggt.model.network import Network
from vggt_ros.reconstruction.vggt.model.sizes import PUBLISHED, SMALL

DATA = Path(__file__).parents[1] / "data"
WITHOUT_TRACKS, WITH_TRACKS = DATA / "small_seed0_2x98x126.npz", DATA / "small_seed1_3x266x322.npz"
TRACKS = {"track_track", "track_vis", "track_conf"}


@pytest.fixture(scope="module", name="networks")
def _networks():
    return {seed: pseudo_random_network(SMALL, seed) for seed in (0, 1)}


@pytest.fixture(scope="module", name="errors")
def _errors(networks):
    """The largest errors with each file, by array."""
    return {file: compare(file, networks[seed]) for seed, file in ((0, WITHOUT_TRACKS), (1, WITH_TRACKS))}


def published():
    """Return name and shape of the published tensors."""
    lines = (DATA / "vggt_state_dict.tsv").read_text().splitlines()[1:]
    return {name: tuple(int(size) for size in shape.split(",")) for name, shape in (line.split("\t") for line in lines)}


def test_the_state_dict_is_the_published_one():
    assert tensor_shapes(PUBLISHED) == published()
    assert sum(int(np.prod(shape)) for shape in published().values()) == 1_256_537_516
    assert set(tensor_shapes(SMALL)) < set(published())


@pytest.mark.parametrize("file", [WITHOUT_TRACKS, WITH_TRACKS])
def test_every_array_but_tracks_agrees_to_1e_5(errors, file):
    assert len(errors[file]) >= 16
    assert max(error for name, error in errors[file].items() if name not in TRACKS) < 1e-5, errors[file]


def test_tracks_agree_up_to_float32_rounding(networks, errors):
    """The difference to the reference is as large as between two runs whose features differ by 1e-7."""
    found, spread = errors[WITH_TRACKS], track_rounding_error(WITH_TRACKS, networks[1])
    for name in TRACKS:
        assert found[name] < 4 * spread[name], name
    assert found["track_track"] < 5e-4
    assert max(found[name] for name in TRACKS) < 5e-3


def test_other_weights_fail(networks):
    """The tolerance is meaningful: with other weights the errors are large."""
    assert min(compare(WITHOUT_TRACKS, networks[1])[f"tokens_{layer}"] for layer in SMALL.taps) > 0.1


def test_parity_command(tmp_path, capsys):
    assert main([str(WITHOUT_TRACKS), "--seed", "0", "--network", "small"]) == 0
    assert "passed" in capsys.readouterr().out
    with np.load(WITHOUT_TRACKS) as data:
        arrays = dict(data)
    arrays["depth"] = arrays["depth"] * np.float32(1.001)
    arrays["pose_enc"][0, 0] = np.nan
    np.savez(tmp_path / "wrong.npz", **arrays)
    assert main([str(tmp_path / "wrong.npz"), "--seed", "0", "--network", "small"]) == 1
    assert "FAILED: pose_enc, depth (" in capsys.readouterr().out
    (tmp_path / "no.npz").write_text("nothing")
    assert main([str(tmp_path / "no.npz"), "--seed", "0", "--network", "small"]) == 1
    assert main([str(tmp_path / "missing.npz"), "--seed", "0", "--network", "small"]) == 1


def test_bfloat16_is_as_accurate_as_the_published_mode():
    """Multiplied in bfloat16 as on a GPU: at most 1.5 times the error of autocast with float32 weights, per array."""
    errors = bfloat16_errors(WITHOUT_TRACKS, pseudo_random_network(SMALL, 0))
    assert set(errors) == {"pose_enc", "depth", "depth_conf", "world_points", "world_points_conf"}
    for name, (ours, published) in errors.items():
        assert 1e-5 < ours < 1.5 * published, (name, ours, published)


def test_frames_after_the_first_may_be_permuted(networks):
    """Time is not encoded: the published network is equivariant to permutations of all frames but the first."""
    images = torch.from_numpy(rule.images(3, 56, 70))
    with torch.inference_mode():
        ours, swapped = networks[0](images), networks[0](images[[0, 2, 1]])
        moved = networks[0](images[[1, 0, 2]])
    for name, value in ours.items():
        torch.testing.assert_close(swapped[name], value[[0, 2, 1]], rtol=1e-4, atol=1e-5)
    assert (moved["depth"][[1, 0, 2]] - ours["depth"]).norm() > 0.01 * ours["depth"].norm()


def test_rope_depends_on_relative_positions_only():
    """Products of q and k with RoPE depend on the offset of two patches; special tokens are unchanged."""
    cosines, sines = blocks.rope(4, 5, 5, 1, 64, torch.device("cpu"))
    q, k = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    turned_q, turned_k = (blocks.apply_rope(x.expand(25, 64), (cosines, sines)) for x in (q, k))
    assert torch.equal(turned_q[:5], q.expand(5, 64))
    torch.testing.assert_close(turned_q[5] @ turned_k[5 + 7], turned_q[5 + 2] @ turned_k[5 + 9])
    assert abs(turned_q[5] @ turned_k[5 + 7] - turned_q[5] @ turned_k[5 + 6]) > 0.01


def test_an_unused_output_is_not_computed():
    """The cameras alone need no dense head."""
    network = Network(SMALL)
    del network.depth_head, network.point_head, network.track_head
    with torch.inference_mode():
        assert set(network(torch.rand(2, 3, 28, 28), ("cameras",))) == {"pose_enc"}
