"""Inference: no synchronization, cached position tables, and a compiler that may fail."""

import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

from tiny_vggt import CPU, TINY, tiny_vggt, write_weights
from torch.utils._python_dispatch import TorchDispatchMode

from vggt_ros.config import Config
from vggt_ros.reconstruction.vggt.checkpoints import rule
from vggt_ros.reconstruction.vggt.comparison.parity import pseudo_random_network
from vggt_ros.reconstruction.vggt.model import dpt_head, track_head
from vggt_ros.reconstruction.vggt.model.dpt_head import plane_positions
from vggt_ros.reconstruction.vggt.model.sizes import PUBLISHED
from vggt_ros.reconstruction.vggt.model.track_head import sample
from vggt_ros.reconstruction.vggt.runtime.attention_kernel import plain_attention_warning
from vggt_ros.reconstruction.vggt.runtime.inference import Inference
from vggt_ros.reconstruction.vggt.settings import VggtConfig
from vggt_ros.windows.keyframe import Keyframe

SYNCHRONIZING = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero", "aten::equal",
                 "aten::masked_select", "aten::_unique2", "aten::median", "aten::nanmedian"}
"""Operations that make the host wait for a GPU, because a value or a shape depends on the result.

The last two count the values that are not NaN on the host, but only on a GPU.
"""
TABLE_OPERATIONS = {"aten::sin", "aten::cos", "aten::linspace", "aten::meshgrid",
                    "aten::_upsample_bicubic2d_aa", "aten::pow"}


class RecordOperations(TorchDispatchMode):
    """Records the names of all operations."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(function._schema.name)
        return function(*args, **(kwargs or {}))


def keyframes(frames=3, height=56, width=70):
    images = (255 * rule.images(frames, height, width)).astype(np.uint8).transpose(0, 2, 3, 1)
    return tuple(Keyframe(i, i, np.ascontiguousarray(images[i]), np.eye(3)) for i in range(frames))


def inference(**settings):
    run = Inference(Config().replace({f"vggt.{name}": value for name, value in settings.items()}).of(VggtConfig), CPU)
    run.set_network(pseudo_random_network(TINY, 0))
    return run


@pytest.mark.parametrize("settings", [{}, {"edge_jump": 0.5, "far": 3.0, "min_raw_confidence": 1.1},
                                      {"outputs": "depth,points"}])
def test_no_operation_synchronizes_and_tables_are_cached(settings):
    """In a second window of the same size no operation waits for the device, and none computes a table."""
    run = inference(**settings)
    with RecordOperations() as first:
        run.run(keyframes())
    run.clear_cache()
    with RecordOperations() as second:
        run.run(keyframes())
    assert "aten::addmm" in second.seen or "aten::linear" in second.seen  # else nothing is recorded
    assert TABLE_OPERATIONS & first.seen
    assert not (SYNCHRONIZING | TABLE_OPERATIONS) & second.seen


def test_the_recorder_detects_synchronization():
    with RecordOperations() as recorder:
        (torch.rand(3) > 0.5).any().item()
        torch.rand(3).nanmedian()
    assert SYNCHRONIZING & recorder.seen == {"aten::_local_scalar_dense", "aten::nanmedian"}


def test_the_window_of_a_loop_does_not_cost_the_tokens_of_the_newest_keyframes():
    """The next window shares two keyframes with the last one; in between, windows of older places were solved."""
    def window(*ids):
        return [keyframes(max(ids) + 1)[i] for i in ids]

    run = inference()
    run.keep = 2
    for ids, reused in (((5, 6, 7, 8), 0), ((1, 2, 8), 1), ((0, 3, 7), 1), ((7, 8, 9, 10), 2), ((9, 10, 11), 2)):
        assert run.run(window(*ids))[1] == reused
        assert len(run._tokens) <= len(ids) + run.keep
        for kept in run._tokens.keys() - set(ids):
            assert run._tokens[kept].untyped_storage().nbytes() == run._tokens[kept].nbytes, "a view of more"
    fresh = inference(reuse_tokens=False).run(window(9, 10, 11))[0]
    assert np.array_equal(run.run(window(9, 10, 11))[0].depth, fresh.depth)


def test_the_attention_kernel_is_named_and_the_plain_one_is_a_warning(caplog, tmp_path):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    write_weights(tmp_path)
    assert tiny_vggt(tmp_path).status_values["attention"] == "flash"
    with caplog.at_level(logging.WARNING, "vggt_ros"), sdpa_kernel(SDPBackend.MATH):
        plain = tiny_vggt(tmp_path)
    assert plain.status_values["attention"] == "plain" and plain.inference.mode.plain_attention
    assert "by the plain kernel of torch, with 0.6 GB of scores" in caplog.text and "another build" in caplog.text
    warning = plain_attention_warning(PUBLISHED, torch.bfloat16, 8, 392, 518)
    assert "with 2.2 GB of scores in a block for 8 images of 518x392" in warning


def test_position_tables_have_the_layout_of_what_they_are_added_to(monkeypatch):
    """An addition across layouts is slow on a GPU; weights with channels last, as there, change only rounding."""
    layouts = []

    def record(channels, height, width, aspect, device, dtype, channels_last):
        table = plane_positions(channels, height, width, aspect, device, dtype, channels_last)
        layouts.append((channels_last, table.stride(0) == 1))
        return table

    monkeypatch.setattr(dpt_head, "plane_positions", record)
    run = inference()
    usual = run.run(keyframes(2))[0]
    assert set(layouts) == {(False, False)}
    run.network.depth_head.to(memory_format=torch.channels_last)
    run.network.chunk = 2
    layouts.clear()
    np.testing.assert_allclose(run.run(keyframes(2))[0].depth, usual.depth, rtol=1e-5)
    assert (True, True) in layouts and all(last == ours for last, ours in layouts)


def test_the_dense_head_in_float16_is_an_option():
    """Only the heads of depth and points: the cameras are bit for bit the same."""
    exact, half = inference().run(keyframes())[0], inference(dense_dtype="float16").run(keyframes())[0]
    assert np.array_equal(exact.pose_enc, half.pose_enc)
    assert 1e-6 < np.abs(np.log(half.depth / exact.depth)).mean() < 0.01


def test_a_window_with_tracks_runs_in_chunks(monkeypatch):
    """Points are correlated a few at a time, with the same result."""
    run = inference(outputs="depth,tracks")
    run.run(keyframes(2, 140, 154))
    whole = run.extra_outputs["track"]
    sizes = []
    monkeypatch.setattr(track_head, "CORRELATED", 500)
    monkeypatch.setattr(track_head, "sample", lambda maps, points, padding: (
        sizes.append(points.shape[0] * points.shape[1]), sample(maps, points, padding))[1])
    run.run(keyframes(2, 140, 154))
    assert max(sizes) <= 500
    torch.testing.assert_close(run.extra_outputs["track"], whole, rtol=1e-3, atol=1e-2)
