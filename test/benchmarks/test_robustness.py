"""benchmark robustness, in a short form: the long one takes two hours (docs/measurements/robustness.md)."""

import json

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from scenes import lap

from vggt_ros.benchmarks.robustness.hostile import TOPICS, HostileMessages, huge_by_header
from vggt_ros.benchmarks.robustness.network import hostile_messages
from vggt_ros.benchmarks.robustness.outcome import Outcome
from vggt_ros.benchmarks.robustness.processes import killed_reconstructor, memory_growth
from vggt_ros.benchmarks.robustness.running_node import Frames, account
from vggt_ros.cli.benchmark import main
from vggt_ros.sequences.image_header import read_header


@pytest.fixture(name="frames")
def _frames():
    seen = lap().frames[:40]
    return Frames(tuple(frame.image for frame in seen), seen[0].intrinsics)


def test_the_node_survives_hostile_messages(frames, tmp_path, module_domain):
    outcome = hostile_messages(tmp_path, module_domain, frames, 300, transports=("raw",))
    assert not outcome.faults, outcome
    assert outcome.figures["raw: images refused"] > 10


@pytest.mark.slow  # test_vggt_node.py kills it, too, and test_process.py and test_interrupts.py end what hangs
def test_the_node_survives_a_killed_reconstructor_and_ends_while_it_hangs(frames, tmp_path, module_domain):
    outcome = killed_reconstructor(tmp_path, module_domain, frames, kills=1, hangs=0)
    assert not outcome.faults, outcome
    assert outcome.figures["reloads counted"] == 1


@pytest.mark.slow
def test_the_command_runs_all_parts(tmp_path, capsys, module_domain):
    status = main(["robustness", "--messages", "1000", "--kills", "5", "--damaged", "50", "--cycles", "4",
                   "--child-kills", "1", "--soak", "30", "--domain", str(module_domain), "--json",
                   str(tmp_path / "figures.json")])
    assert status == 0, capsys.readouterr().out
    assert len(json.loads((tmp_path / "figures.json").read_text())) == 6


def test_messages_are_reproducible_and_of_every_topic():
    frame = lap().frames[0]
    first, second = (HostileMessages(frame.image, frame.intrinsics, seed=3) for _ in range(2))
    for topic in [*TOPICS, "image", "image/compressed"]:
        for _ in range(20):
            made, again = first.make(topic), second.make(topic)
            if isinstance(made, bytes):  # the padding of serialized messages is not initialized
                assert isinstance(again, bytes) and len(again) == len(made)
            else:
                assert repr(made) == repr(again)
    for data in (first._jpeg, first._png):
        header = read_header(bytes(huge_by_header(data)))
        assert (header.width, header.height) == (60_000, 60_000)


def test_what_is_lost_and_not_counted_is_a_fault():
    status = {"images received": "10", "images early": "0", "images waiting": "1", "images refused": "1",
              "images late": "0", "frames": "8", "images missed": "2", "keyframes": "5", "thinned": "0",
              "unplaced": "1", "keyframes placed": "4", "released": "0",
              "windows lost": "0", "worker": "idle", "windows waiting": "0"}
    whole, lost, missed, keyframe = (Outcome("test", 1) for _ in range(4))
    account(status, whole, 12)
    account(status | {"frames": "7"}, lost, 12)
    account(status, missed, 13)
    account(status | {"keyframes": "6"}, keyframe, 12)
    assert [found.fault_count for found in (whole, lost, missed, keyframe)] == [0, 1, 1, 1]


def test_growth_is_that_of_the_last_half():
    times = np.arange(0.0, 100.0)
    flat = [(when, min(when, 50.0) + 500.0, 0.0) for when in times]
    growing = [(when, 500.0 + 0.2 * when, 0.0) for when in times]
    assert memory_growth(flat, 50.0)[0] == pytest.approx(0.0, abs=1e-6)
    assert memory_growth(growing, 50.0)[0] == pytest.approx(100 * 0.2 * 49 / 515, rel=0.02)
