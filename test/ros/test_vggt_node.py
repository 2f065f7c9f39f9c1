"""VGGT in the node, over DDS: loading, messages, diagnostics, memory, and accuracy with exact network output."""

import os
import resource
import signal
import threading
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")

from bench import OUTPUTS, Bench, stamp
from scenes import lap, trajectory_error
from tiny_vggt import write_weights
from vggt_oracle import VggtOracle

from vggt_ros.config import Config
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.vggt.checkpoints import rule, weights
from vggt_ros.reconstruction.vggt.model.sizes import SMALL
from vggt_ros.reconstruction.vggt.runtime import memory
from vggt_ros.settings import ConfigError

WIDTH, HEIGHT = 140, 112
"""Size of images of 320x240 with `vggt.width` 140."""


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
    """The small network with pseudo-random weights, as a folder for `vggt.weights`."""
    folder = tmp_path_factory.mktemp("weights")
    SMALL.save(folder / "config.json")
    state = {name: torch.from_numpy(value) for name, value in rule.weights(SMALL, 0)}
    rule.agree_on_one_camera(state, 126, 98)
    safetensors.save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture(name="make")
def _make(capfd):
    benches = []

    def make_bench(reconstructor, /, **parameters):
        benches.append(Bench(reconstructor, OUTPUTS, tf__base_timeout=0.0, tf__assume_level=True, **parameters))
        benches[-1].read_log = lambda: capfd.readouterr().err
        return benches[-1]

    yield make_bench
    for bench in benches:
        bench.close()


def vggt(folder, **changes):
    return {"reconstructor": "vggt", "vggt__weights": str(folder), "vggt__device": "cpu", "vggt__width": WIDTH,
            "windows__size": 4, "windows__overlap": 2, **changes}


def state(bench):
    return bench.status()["state"] if bench.got["status"] else "none"


def test_the_network_in_the_node(make, folder, monkeypatch):
    """From LOADING to messages: early images are counted, statistics are in /diagnostics, memory is bounded.

    With pseudo-random weights the output is not geometry, and windows align by chance only; the first one is mapped.
    """
    monkeypatch.setattr(weights, "_license_logged", set())
    gate = threading.Event()

    def slow_factory(config, progress):
        progress("waiting for the test")
        assert gate.wait(30)
        return create_reconstructor(config, progress)

    bench = make(slow_factory, **vggt(folder))
    assert bench.node.trigger_configure().name == "SUCCESS"
    assert bench.spin(lambda: state(bench) == "LOADING" and "waiting" in bench.status()["reconstructor"])
    assert bench.node.trigger_activate().name == "SUCCESS"
    assert bench.spin(lambda: bench.images.get_subscription_count() and bench.infos.get_subscription_count())
    bench.spin(seconds=0.2)
    bench.info(lap().frames[0])
    for frame in lap().frames[:3]:
        bench.image(frame)
    assert bench.counts["early"] == 3 and bench.node.slam.counts.frames == 0
    gate.set()
    assert bench.spin(lambda: state(bench) == "NO_IMAGE")
    assert bench.spin(lambda: bench.logged("vggt, as configured") and bench.logged("non-commercial"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bench.play(lap().frames[3:28])
    status = bench.status_now()
    assert (status["model"], status["type"]) == (str(folder), "float32") and status["device"].startswith("CPU")
    assert float(status["window seconds"]) > 0 and float(status["window tflop_per_s"]) > 0
    assert float(status["window peak_memory_mb"]) > 50
    assert status["images early"] == "3" and int(status["images received"]) == 28
    assert {value.key for message in bench.got["/diagnostics"] for one in message.status for value in one.values} >= {
        "model", "device", "type", "window seconds", "window peak_memory_mb", "window tflop_per_s"}
    assert [stamp(message) for message in bench.got["odom"]] == [frame.stamp for frame in lap().frames[3:28]]
    assert bench.got["depth/image"] and bench.got["cloud"][-1].width > 1000
    assert {(image.width, image.height) for image in bench.got["depth/image"]} == {(WIDTH, HEIGHT)}
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < 4 * memory.activation_bytes(SMALL, 4, HEIGHT, WIDTH, memory.Mode()) + 200e6


def test_windows_beyond_the_memory_are_split_and_diagnostics_report_it(make, folder):
    """`vggt.memory` suffices for three images, a window has four; alignment accepts the inconsistent parts."""
    room = memory.window_bytes(SMALL, 3, HEIGHT, WIDTH, torch.float32, memory.Mode()) + 1e4
    bench = make(create_reconstructor, **vggt(folder, vggt__memory=1e-9 * room, alignment__max_rotation=45.0,
                                              alignment__max_translation=1.0, alignment__max_scale=1.0,
                                              tracking__min_inliers=6)).start()
    assert bench.logged("windows of more than 3 images are split")
    bench.info(lap().frames[0])
    bench.play(lap().frames[:28])
    statuses = [one for message in bench.got["/diagnostics"] for one in message.status]
    values = {value.key: value.value for one in statuses for value in one.values}
    assert "more than 3 images" in values["split"] and float(values["window parts"]) == 2
    assert any("memory is short: windows are solved in 2 parts" in one.message and one.level == b"\x01"
               for one in statuses)


def test_a_failure_to_load_is_reported_and_can_be_fixed(make, folder, tmp_path):
    """The node continues; after cleanup it can be configured again."""
    bench = make(create_reconstructor, **vggt(tmp_path))
    assert bench.node.trigger_configure().name == "SUCCESS"
    assert bench.spin(lambda: state(bench) == "FAILED")
    assert "contains none of model.safetensors" in bench.status()["reconstructor"]
    assert bench.got["status"][-1].level == b"\x02" and bench.logged("no reconstructor", "model.safetensors")
    assert bench.node.trigger_activate().name == "SUCCESS"
    assert bench.spin(lambda: bench.images.get_subscription_count())
    bench.spin(seconds=0.2)
    bench.image(lap().frames[0])
    assert bench.counts["early"] == 1
    assert bench.node.trigger_deactivate().name == bench.node.trigger_cleanup().name == "SUCCESS"
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    assert bench.node.trigger_configure().name == "SUCCESS"
    assert bench.spin(lambda: state(bench) == "NO_IMAGE")


def test_cleanup_cancels_loading(make, folder):
    """Cleanup waits for the next progress report, not for the weights."""
    started = threading.Event()

    def endless(config, progress):
        started.set()
        while True:
            progress("still loading")
            threading.Event().wait(0.01)

    bench = make(endless)
    assert bench.node.trigger_configure().name == "SUCCESS"
    assert started.wait(10)
    assert bench.node.trigger_cleanup().name == "SUCCESS"
    assert not bench.logged("no reconstructor")


def test_a_reconstructor_that_is_lost_is_replaced(make, tmp_path):
    """Its process is killed, as by the system for lack of memory: the next window is solved by another one."""
    write_weights(tmp_path)
    bench = make(partial(create_reconstructor, separate_process=True), **vggt(tmp_path)).start()
    bench.info(lap().frames[0])
    bench.play(lap().frames[:20])
    windows = bench.node.slam.counts.windows
    assert windows > 0 and "torch" not in bench.status_now()["reconstructor"]
    os.kill(bench.node.reconstructor._reconstructor._process.pid, signal.SIGKILL)
    for frame in lap().frames[20:45]:
        bench.image(frame)
        assert bench.spin(lambda: bench.node.worker.idle, 100.0), "not loaded again"
    status = bench.status_now()
    assert status["reconstructor reloads"] == "1" and status["device"].startswith("CPU")
    assert bench.node.slam.counts.windows > windows and bench.node.monitor.error == ""
    assert bench.logged("was killed, possibly for lack of memory; it is created again")
    assert bench.counts["early"] == 0


def test_a_failed_preparation_reaches_the_status(make):
    """The camera's images need more memory than there is: it is said before the first window."""
    oracle = lap().oracle(kind=VggtOracle)

    def prepare(width, height):
        raise RuntimeError("two images do not fit")

    oracle.prepare = prepare
    bench = make(oracle).start()
    bench.info(lap().frames[0])
    bench.image(lap().frames[0])
    bench.settle()
    assert bench.status_now()["reconstructor problem"] == "not prepared for images of 320x240: two images do not fit"
    assert bench.got["status"][-1].level == b"\x01" and "two images do not fit" in bench.got["status"][-1].message
    assert bench.logged("two images do not fit")


def test_accuracy_with_exact_network_output(make):
    """Ground truth as raw output, with a different scale per window: the error is below 1e-3 of the scene."""
    bench = make(lap().oracle(kind=VggtOracle)).start()
    bench.info(lap().frames[0])
    bench.play(lap().frames[:70])
    bench.settle(4.0)
    path = bench.got["path"][-1]
    stamps, poses = bench.node.slam.solution.trajectory(0)
    assert [stamp(item) for item in path.poses] == stamps.tolist() and len(stamps) >= 8
    size = float(np.ptp(lap().world_camera[:, :3, 3], axis=0).max())
    assert trajectory_error(stamps, poses, lap())[0] < 1e-3 * size
    assert bench.node.slam.counts.submaps == 1


def test_auto_reports_the_reconstructor_and_the_reason():
    """Without a GPU `auto` selects multiview; with `vggt` configured, missing weights are an error."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    reconstructor, reason = create_reconstructor(Config())
    assert (reconstructor.name, reason) == ("multiview", "multiview, because there is no GPU")
    with pytest.raises(ConfigError, match="does not exist"):
        create_reconstructor(Config().replace({"reconstructor": "vggt", "vggt.weights": "/nowhere"}))
