"""A reconstructor in a child process: the same results as in this process, and an end whatever it does."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import staged_reconstructors
from scenes import lap
from staged_reconstructors import Staged

from vggt_ros.config import Config
from vggt_ros.features.description import describe_keyframe
from vggt_ros.reconstruction import create_reconstructor, process
from vggt_ros.reconstruction.base import ReconstructionRefused, ReconstructorLost
from vggt_ros.reconstruction.multiview.reconstructor import Multiview
from vggt_ros.reconstruction.process import ReconstructorProcess
from vggt_ros.windows.keyframe import Keyframe, Window


def window(count: int, step: int = 4) -> Window:
    """Return a window of the lap around the room."""
    frames = lap().frames[: count * step : step]
    return Window(0, tuple(Keyframe(i, f.stamp, f.image, f.intrinsics) for i, f in enumerate(frames)))


def told(what: int) -> Window:
    """Return a window that tells a staged reconstructor what to do."""
    return Window(0, tuple(Keyframe(what + i, 0, np.zeros((2, 3, 3), np.uint8), np.eye(3)) for i in range(2)))


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


@pytest.fixture(name="staged")
def _staged():
    made = ReconstructorProcess(Config(), staged_reconstructors.create)
    yield made
    made.close()
    assert not alive(made._process.pid)


def test_same_results_and_same_refusals_as_in_this_process():
    config = Config(reconstructor="multiview")
    in_process, reason = create_reconstructor(config, separate_process=True)
    try:
        assert (in_process.name, reason) == ("multiview", "multiview, as configured")
        assert os.getpriority(os.PRIO_PROCESS, in_process._process.pid) > os.getpriority(os.PRIO_PROCESS, 0), \
            "tracking has no priority over windows"
        remote, local = in_process.reconstruct(window(5)), Multiview(config).reconstruct(window(5))
        assert np.array_equal(remote.window_camera, local.window_camera)
        assert np.array_equal(remote.depth, local.depth, equal_nan=True)
        with pytest.raises(ReconstructionRefused, match="too few tracks"):
            in_process.reconstruct(window(1))
    finally:
        in_process.close()


def test_errors_logs_and_status_come_back(staged, caplog):
    with pytest.raises(ReconstructionRefused, match=r"^as told$"):
        staged.reconstruct(told(Staged.REFUSE))
    with pytest.raises(ReconstructorLost, match="context of the GPU is lost"):
        staged.reconstruct(told(Staged.LOSE))
    with pytest.raises(RuntimeError, match=r"KeyError: 'a bug'\nin the process of the reconstructor:\n.*reconstruct"):
        staged.reconstruct(told(Staged.FAIL))
    with caplog.at_level(logging.INFO, "vggt_ros"):
        staged.reconstruct(told(Staged.WARN))
    assert "windows of more than 4 images are split" in caplog.messages
    reported = []
    staged.prepare(28, 14, reported.append)
    assert "compiling for 28x14" in reported
    assert staged.status_values == {"solved": "1", "prepared": "28x14"}


def test_keyframes_are_described_in_the_process_once():
    """The features are those that this process finds; a keyframe that a window shares is not described again."""
    made = ReconstructorProcess(Config(), staged_reconstructors.create, describe=describe_keyframe)
    try:
        for numbers in ((0, 1), (1, 2)):
            frames = [lap().frames[8 * number] for number in numbers]
            made.reconstruct(Window(0, tuple(Keyframe(number, frame.stamp, frame.image, frame.intrinsics)
                                             for number, frame in zip(numbers, frames, strict=True))))
            found = {number: made.take_description(number) for number in numbers}
            assert [number for number in numbers if found[number] is not None] == ([0, 1] if 0 in numbers else [2])
            for number, frame in zip(numbers, frames, strict=True):
                if found[number] is not None:
                    expected = describe_keyframe(Keyframe(number, frame.stamp, frame.image, frame.intrinsics))
                    assert np.array_equal(found[number].binary.descriptors, expected.binary.descriptors)
                    assert np.array_equal(found[number].appearance, expected.appearance)
                    assert len(expected.binary) > 50 and len(expected.local) > 50
    finally:
        made.close()


def test_a_process_that_was_killed_is_lost(staged):
    os.kill(staged._process.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(ReconstructorLost, match="was killed, possibly for lack of memory"):
            staged.reconstruct(told(0))


@pytest.mark.parametrize("when", ["creation", "preparation"])
def test_what_hangs_can_be_interrupted(when, staged):
    """A download that has stalled, a compiler, a GPU that does not answer: the progress callback ends the process."""
    began = time.monotonic()

    def stop(text):
        if time.monotonic() - began > 1.0 and ("downloading" in text or "compiling" in text):
            raise RuntimeError("closed while loading")

    hang = {"creation": lambda: ReconstructorProcess(Config(), staged_reconstructors.create_slowly, stop),
            "preparation": lambda: staged.prepare(13, 13, stop)}[when]
    with pytest.raises(RuntimeError, match="closed while loading"):
        hang()
    assert time.monotonic() - began < 60


def test_a_process_that_hangs_is_killed(staged):
    """It is stopped, as a deadlock would: no progress. One that is slow, but gets on, is waited for."""
    staged._config = Config().replace({"windows.deadline": 3.0})
    stop_and_go = threading.Thread(target=slow_down, args=(staged._process.pid, 4.0))
    stop_and_go.start()
    assert staged.reconstruct(told(0)).depth[0, 0, 0] == 1
    stop_and_go.join()
    os.kill(staged._process.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(ReconstructorLost, match=r"has hung .*windows\.deadline"):
        staged.reconstruct(told(0))
    assert time.monotonic() - began < 20
    assert not alive(staged._process.pid)


def slow_down(pid, seconds):
    """Let a process run for a fifth of the time."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)


def test_a_window_that_hangs_does_not_stop_the_end(staged, monkeypatch):
    monkeypatch.setattr(process, "_GRACE", 0.5)
    staged.cancel()
    with pytest.raises(ReconstructorLost, match="was closed"):
        staged.reconstruct(told(Staged.HANG))
    assert not alive(staged._process.pid)


def test_a_window_in_progress_may_end_before_the_process_does(staged):
    staged.cancel()
    assert staged.reconstruct(told(0)).depth[0, 0, 0] == 1


def test_the_choice_of_multiview_leaves_no_torch_behind():
    """It was imported to look for a GPU, and takes memory of the host and of the GPU; the reason is kept."""
    pytest.importorskip("torch", reason="torch is not installed")
    made = ReconstructorProcess(Config(), staged_reconstructors.create_auto)
    try:
        assert (made.name, made.reason) == ("multiview", "multiview, chosen by auto")
        assert "libtorch" not in Path(f"/proc/{made._process.pid}/maps").read_text()
    finally:
        made.close()


def test_the_process_imports_no_torch_to_find_no_gpu_and_nothing_of_the_main_module(tmp_path):
    """The main module of the node brings rclpy and gtsam; 50 MB, and torch 130 MB."""
    main = tmp_path / "main.py"
    main.write_text("import gtsam\n"
                    "from pathlib import Path\n"
                    "from vggt_ros.config import Config\n"
                    "from vggt_ros.reconstruction import create_reconstructor, gpu_driver\n"
                    "if __name__ == '__main__':\n"
                    "    made, _ = create_reconstructor(Config(), separate_process=True)\n"
                    "    maps = Path(f'/proc/{made._process.pid}/maps').read_text()\n"
                    "    print(gpu_driver.may_have_gpu(), made.name, 'gtsam' in maps, 'libtorch' in maps)\n"
                    "    made.close()\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, str(main)], capture_output=True, text=True, timeout=60, env=environment)
    if done.stdout.startswith("True"):
        pytest.skip("this machine may have a GPU, so torch has to look for it")
    assert done.stdout.split() == ["False", "multiview", "False", "False"], done.stdout + done.stderr


def test_an_interpreter_that_ends_without_close_does_not_wait():
    code = ("import staged_reconstructors\n"
            "from vggt_ros.config import Config\n"
            "from vggt_ros.reconstruction.process import ReconstructorProcess\n"
            "if __name__ == '__main__':\n"
            "    made = ReconstructorProcess(Config(), staged_reconstructors.create)\n"
            "    print(made._process.pid)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert not alive(int(done.stdout))
