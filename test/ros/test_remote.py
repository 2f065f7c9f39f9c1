"""A robot without a GPU: windows are solved by a server, over DDS, on a link that is slow and lossy, or goes away."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("vggt_ros_msgs.action", reason="vggt_ros_msgs is not built")
from paths import ROOT
from remote_client import mapped
from scenes import lap

from vggt_ros import plugins
from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.base import WindowGeometry
from vggt_ros.ros.remote import window_messages
from vggt_ros.ros.remote.simulated_link import SimulatedLink
from vggt_ros.ros.remote.window_messages import MessageError
from vggt_ros.settings import ConfigError
from vggt_ros.windows.keyframe import Corners, Keyframe, Window

SUPPORT = ROOT / "test" / "support"
LINK = {"remote.link_delay": 20.0, "remote.link_loss": 5.0, "remote.link_rate": 20.0}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(SUPPORT)]))


class Processes:
    """The server and the robot, each a process; they are killed at the end."""

    def __init__(self, folder):
        self.folder, self.running = folder, []

    def start(self, *arguments):
        log = (self.folder / f"log{len(self.running)}").open("w")
        self.running.append(subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                                             stderr=log))
        return self.running[-1]

    def robot(self, frames, settings):
        file, output = self.folder / "frames.npz", self.folder / "map.npz"
        np.savez(file, stamps=[f.stamp for f in frames], images=[f.image for f in frames],
                 intrinsics=frames[0].intrinsics)
        return self.start(SUPPORT / "remote_client.py", file, json.dumps(settings), output), output

    def solved(self):
        """The windows that the servers began to solve, in order."""
        return [int(number) for number in re.findall(r"solves window (\d+)", self.log())]

    def log(self):
        return "".join(path.read_text() for path in sorted(self.folder.glob("log*")))


@pytest.fixture
def processes(tmp_path):
    made = Processes(tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


def until(process, line):
    """Read what a process says until a line begins so."""
    for said in process.stdout:
        if said.startswith(line):
            return said
    raise AssertionError(f"{process.args[1]} ended before {line!r}")


def window(count=3, excluded=True):
    rng, frames = np.random.default_rng(0), lap(10, 0.25).frames
    return Window(7, tuple(Keyframe(
        10 + i, frames[i].stamp, frames[i].image, frames[i].intrinsics, i != 1,
        Corners(np.arange(5 + i), rng.random((5 + i, 2), np.float32), np.full((5 + i, 2), np.nan, np.float32)),
        excluded=rng.random((12, 16)) > 0.5 if excluded else None, unordered=i == 2) for i in range(count)), (10, 11))


def geometry(count=3, seed=0):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 5.0, (count, 30, 40)).astype(np.float32)
    depth[:, :3] = np.nan
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[1:, :3, 3] = rng.random((count - 1, 3))
    return WindowGeometry(tuple(range(10, 10 + count)), poses, np.tile(np.eye(3), (count, 1, 1)), depth,
                          rng.random((count, 30, 40), np.float32), rng.random((count, 8), np.float32), True,
                          {"residual_px": 0.5}, rng.random((count - 1, 6, 6)), 1.5, ("a note",))


# Messages.

def test_a_window_arrives_as_it_was_sent():
    """To the bit as PNG; as JPEG with other images, a few gray values off, and about 1 MB for 8 of 518x392."""
    sent = window()
    for lossless in (True, False):
        received = window_messages.goal_window(window_messages.window_goal(sent, "me", 90, lossless))
        assert (received.id, received.ids, received.shared) == (sent.id, sent.ids, sent.shared)
        for a, b in zip(sent.keyframes, received.keyframes, strict=True):
            assert (a.stamp, a.calibrated, a.unordered) == (b.stamp, b.calibrated, b.unordered)
            np.testing.assert_array_equal(a.intrinsics, b.intrinsics)
            np.testing.assert_array_equal(a.excluded, b.excluded)
            for name in ("ids", "pixels", "velocity"):
                np.testing.assert_array_equal(getattr(a.corners, name), getattr(b.corners, name))
            error = np.abs(a.image.astype(int) - b.image)
            assert error.max() == 0 if lossless else 0 < error.mean() < 6
    assert window_messages.goal_window(window_messages.window_goal(window(1, False), "me", 90, False)) \
        .keyframes[0].excluded is None


def test_a_geometry_arrives_as_it_was_sent():
    sent = geometry()
    for lossless in (True, False):
        message = window_messages.geometry_message(sent, lossless)
        received = window_messages.message_geometry(message)
        assert (received.keyframe_ids, received.metric, received.report, received.uncertainty, received.notes) == \
            (sent.keyframe_ids, sent.metric, sent.report, sent.uncertainty, sent.notes)
        for name in ("window_camera", "intrinsics", "descriptors", "step_covariance"):
            np.testing.assert_array_equal(getattr(received, name), getattr(sent, name))
        np.testing.assert_allclose(received.depth, sent.depth, rtol=0 if lossless else 2**-11)
        np.testing.assert_allclose(received.confidence, sent.confidence, atol=0 if lossless else 0.5 / 255 + 1e-6)
    plain = replace(sent, descriptors=None, step_covariance=None)
    received = window_messages.message_geometry(window_messages.geometry_message(plain, False))
    assert received.descriptors is None and received.step_covariance is None


@pytest.mark.parametrize("damage", [
    {"height": 31}, {"height": 2**31, "width": 2**31}, {"depth": b"no zlib"}, {"window_camera": [0.0] * 5},
    {"descriptor_size": 7}, {"keyframe_ids": []}])
def test_a_damaged_geometry_is_refused(damage):
    message = window_messages.geometry_message(geometry(), False)
    for name, value in damage.items():
        setattr(message, name, value)
    with pytest.raises(MessageError):
        window_messages.message_geometry(message)


def test_an_image_that_cannot_be_decoded_is_named():
    goal = window_messages.window_goal(window(), "me", 90, False)
    goal.keyframes[1].image = b"no image"
    with pytest.raises(MessageError, match=r"keyframes\[11\].image cannot be decoded"):
        window_messages.goal_window(goal)


def test_the_simulated_link_takes_the_time_of_its_rate_its_delay_and_its_losses():
    """1 MB at 20 Mbit/s: 0.4 s, and 5 % again; of 715 packets 36, then 2 are sent again."""
    assert SimulatedLink(0.02, 0.0, 20e6).seconds(1_000_000) == pytest.approx(0.42, rel=0.01)
    link = SimulatedLink(0.02, 0.05, 20e6)
    times = [link.seconds(1_000_000) for _ in range(200)]
    assert 0.4 / 0.95 + 0.02 + 1.5 * 0.04 < np.mean(times) < 0.4 / 0.95 + 0.02 + 3 * 0.04
    assert SimulatedLink(0.0, 0.0, 0.0).seconds(10**9) == 0.0


# Settings.

def test_remote_is_never_chosen_by_itself_and_no_fallback_of_itself():
    assert "remote" in plugins.names() and "remote" not in plugins.AUTOMATIC
    with pytest.raises(ConfigError, match=r"remote\.fallback: remote cannot be its own fallback"):
        create_reconstructor(Config().replace({"reconstructor": "remote", "remote.fallback": "remote"}))


def test_without_a_server_the_fallback_solves_windows(caplog):
    """After the deadline, counted and said; sizes of images are those of the server's networks."""
    made, _ = create_reconstructor(Config().replace({
        "reconstructor": "remote", "remote.fallback": "multiview", "remote.deadline": 1.0}))
    try:
        assert made.image_size(Camera.assumed(1280, 960, 60.0)) == (518, 392)
        assert made.image_size(Camera.assumed(320, 240, 60.0)) == (308, 224)
        frames = lap().frames[:20:4]
        solved = made.reconstruct(Window(0, tuple(Keyframe(i, f.stamp, f.image, f.intrinsics)
                                                  for i, f in enumerate(frames))))
        assert len(solved.keyframe_ids) == 5
        assert made.status_values["remote windows by fallback"] == "1" and made.status_values["remote windows"] == "0"
        assert "no server /reconstruction_server yet" in caplog.text
    finally:
        made.close()


# Two processes.

def test_a_server_that_is_killed_and_started_again_loses_no_keyframe(processes):
    """Over 20 ms, 5 % loss and 20 Mbit/s, the same map as with the reconstructor in the process of the robot."""
    settings = {"reconstructor": "remote", "remote.lossless": True, "remote.silence": 2.0, **LINK,
                "windows.size": 5, "windows.overlap": 2, "tracking.features": 200, "loops.enabled": False}
    frames = lap().frames[:45]
    server = processes.start(SUPPORT / "oracle_server.py", 2)
    robot, output = processes.robot(frames, settings)
    until(robot, "connected")
    assert server.wait(30) == -signal.SIGKILL
    processes.start(SUPPORT / "oracle_server.py")
    until(robot, "done")
    assert robot.wait(20) == 0, processes.log()
    found, config = np.load(output), Config().replace(settings)
    here = mapped(frames, config, lap().oracle())
    assert found["keyframes"] == here["keyframes"] > 10 and found["unplaced"] == here["unplaced"] == found["thinned"]
    np.testing.assert_array_equal(found["ids"], here["ids"])
    for name in ("map_camera", "scale", "depth"):
        np.testing.assert_array_equal(found[name], here[name], err_msg=name)
    status = json.loads(str(found["status"]))
    solved = processes.solved()  # how often a window is sent is the network's affair, how often it is solved is not
    assert solved == sorted(solved) and solved.count(2) == 2 and len(set(solved)) == len(solved) - 1
    assert int(status["remote windows sent again"]) > 0 and int(status["remote windows"]) == found["windows"]
    assert status["remote server"].endswith("the oracle, for a test") and float(status["remote sent MB"]) > 1
    assert float(status["remote round trip s"]) > float(status["remote server s"]) + 0.1
    said = processes.log()
    assert any(words in said for words in ("it is not there", "gives no sign of life", "it does not answer"))


@pytest.mark.slow  # torch is loaded in both processes
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_the_network_on_a_server_gives_what_it_gives_here(processes, tmp_path):
    """To the bit, with the small network; the robot has no torch."""
    from tiny_vggt import tiny_vggt, tiny_window, write_weights

    write_weights(tmp_path / "weights")
    parameters = {"reconstructor": "vggt", "vggt.weights": str(tmp_path / "weights"), "vggt.device": "cpu",
                  "refine": '"off"', "windows.size": 3, "windows.overlap": 1}
    server = processes.start("-m", "vggt_ros.ros.remote.server", "--ros-args", *(
        word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")))

    def progress(text):
        assert server.poll() is None, processes.log()

    made, _ = create_reconstructor(Config().replace({"reconstructor": "remote", "remote.lossless": True}), progress)
    try:
        remote = made.reconstruct(tiny_window())
        local = tiny_vggt(tmp_path / "weights").reconstruct(tiny_window())
        for name in ("window_camera", "intrinsics", "depth", "confidence"):
            np.testing.assert_array_equal(getattr(remote, name), getattr(local, name), err_msg=name)
        assert "vggt, as configured" in made.status_values["remote server"]
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
    finally:
        made.close()


def test_the_node_waits_for_the_server_and_maps_with_it(processes):
    """With the client in the process of the reconstructor; the status has the server and the figures of the link."""
    from bench import Bench

    bench = Bench(partial(create_reconstructor, separate_process=True), ["status"], reconstructor="remote",
                  tf__base_timeout=0.0, tf__assume_level=True, windows__size=5, windows__overlap=2,
                  tracking__features=200)
    try:
        assert bench.node.trigger_configure().name == "SUCCESS"
        assert bench.spin(lambda: "waiting for the reconstruction server /reconstruction_server"
                          in bench.status_message(), seconds=30)
        assert bench.status()["state"] == "LOADING"
        processes.start(SUPPORT / "oracle_server.py")
        assert bench.spin(lambda: bench.node.reconstructor.state == "READY")
        assert bench.node.trigger_activate().name == "SUCCESS"
        assert bench.spin(lambda: bench.images.get_subscription_count() and bench.infos.get_subscription_count())
        bench.info(lap().frames[0])
        bench.play(lap().frames[:25])
        assert len(bench.node.slam.solution) >= 5 and bench.node.monitor.tracked.map_camera is not None
        status = bench.status_now()
        assert status["remote server"] == "/reconstruction_server: the oracle, for a test"
        assert int(status["remote windows"]) > 0 and float(status["remote sent MB"]) > 0.05
        solved = processes.solved()
        assert len(solved) == len(set(solved)) == int(status["remote windows"])
    finally:
        bench.close()
