"""Lines that C libraries write to stderr are held back; all other text arrives, also that of child processes."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from vggt_ros.native_stderr import held_back, real_stderr
from vggt_ros.sequences.encodings import ImageError
from vggt_ros.sequences.intake import Intake

NOISE = "Corrupt JPEG data: 3 extraneous bytes before marker 0xd9"


def test_noise_is_held_back_and_all_else_arrives(capfd: pytest.CaptureFixture[str]) -> None:
    with held_back() as lines:
        os.write(2, f"before\n{NOISE}\n".encode())
        os.write(2, b"after\n")
        assert not lines
    assert lines == [NOISE]
    with held_back() as lines:
        pass
    os.write(2, b"later\n")
    assert not lines and capfd.readouterr().err == "before\nafter\nlater\n"


def test_many_threads_lose_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Each line is seen by exactly one of them."""
    seen: list[str] = []

    def work(number: int) -> None:
        for _ in range(200):
            with held_back() as lines:
                os.write(2, f"{NOISE}\nfrom {number}\n".encode())
            seen.extend(lines)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [NOISE] * 800
    found = capfd.readouterr().err.split("\n")
    assert sorted(found) == ["", *(f"from {number}" for number in range(4) for _ in range(200))]


def test_a_child_that_is_started_meanwhile_has_the_real_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", "import sys; print('child', file=sys.stderr)"]
    with held_back(), real_stderr() as stderr:
        subprocess.run(command, stderr=stderr, check=True)
        assert capfd.readouterr().err == "child\n"


def test_damaged_jpegs_are_used_and_counted_and_their_number_is_in_few_lines_of_the_log(
        capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8), (320, 240))
    data = cv2.imencode(".jpg", image)[1].tobytes()
    message = SimpleNamespace(format="jpeg", data=np.frombuffer(data[:-2] + b"abc" + data[-2:], np.uint8))
    intake = Intake()
    for _ in range(20):
        assert intake.decode(message).shape == (240, 320, 3)
        found = intake.decode_gray(message, (320, 240), 1)
        assert found is not None and found[1]().shape == (240, 320, 3)
    assert intake.damaged == 40 and capfd.readouterr().err == ""
    assert [record.message.split()[0] for record in caplog.records] == ["1", "2", "4", "8", "16", "32"]
    assert all("extraneous bytes" in record.message for record in caplog.records)


@pytest.mark.parametrize("kind", ["jpg", "png", "tiff", "webp", "bmp", "ppm"])
def test_images_that_are_cut_off_are_named_and_nothing_is_written_about_them(
        kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """OpenCV's own log has a line for each, in a flood thousands."""
    data = cv2.imencode(f".{kind}", np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))[1].tobytes()
    for share in (0.9, 0.5):
        with pytest.raises(ImageError, match="damaged"):
            Intake().decode_file(data[:int(len(data) * share)])
    assert not capfd.readouterr().err
