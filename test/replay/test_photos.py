"""Photos without order in time: geometry with the oracle, shapes and files with a tiny network, errors."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from exif import tagged
from paths import ROOT
from scenes import SIZE

from vggt_ros.cli import reconstruct as command
from vggt_ros.cli.reconstruct import main
from vggt_ros.config import Config
from vggt_ros.geometry.poses import inverse, umeyama
from vggt_ros.replay.photo_tracks import corners, track
from vggt_ros.replay.photo_windows import similarities, similarity_order
from vggt_ros.replay.photos import find_photos, reconstruct_photos
from vggt_ros.sequences.orientation import turned
from vggt_ros.synthetic import SceneReconstructor, orbit, pinhole, room
from vggt_ros.windows.keyframe import Keyframe

COUNT = 9


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of a room on a curve."""
    folder = tmp_path_factory.mktemp("photos")
    matrix = pinhole(*SIZE)
    for number, world_camera in enumerate(orbit(60)[::3][:COUNT]):
        image = room().render(world_camera, matrix, SIZE)[0]
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    return folder


class Calibrated(SceneReconstructor):
    """The truth, also of the focal length."""

    def reconstruct(self, window):
        matrix = pinhole(*SIZE)
        known = [Keyframe(k.id, k.stamp, k.image, matrix, k.calibrated) for k in window.keyframes]
        return super().reconstruct(type(window)(window.id, tuple(known), window.shared))


def oracle() -> SceneReconstructor:
    """Return the truth of the photos."""
    return Calibrated(room(), [(i + 1) * 10**9 for i in range(COUNT)], orbit(60)[::3][:COUNT], depth_width=SIZE[0])


@pytest.mark.parametrize("at_once", [COUNT, 4])
def test_poses_and_tracks_are_true(folder: Path, at_once: int) -> None:
    """In one window and in several; points are tracked to where the truth projects them, where they are seen."""
    files, _ = find_photos([folder])
    config = Config().replace({"map.kept_width": 400})
    found = reconstruct_photos(files, oracle(), config, at_once)
    assert [photo.path for photo in found.photos] == files
    assert found.missing == []
    truth = orbit(60)[::3][:COUNT]
    centers = np.array([photo.map_camera[:3, 3] for photo in found.photos])
    world_map = umeyama(centers, truth[:, :3, 3])
    assert np.abs(world_map.apply(centers) - truth[:, :3, 3]).max() < 0.005

    source, pixels = corners(found.photos)
    tracks = track(found.photos, source, pixels)
    assert np.array_equal(tracks.visible, np.isfinite(tracks.pixels).all(-1))
    matrix, scene = pinhole(*SIZE), room()
    depths = [scene.depth(pose, matrix, SIZE) for pose in truth]
    errors, hidden = [], []
    for point in range(0, len(pixels), 7):
        x, y = np.rint(pixels[point]).astype(int)
        ray = np.linalg.inv(matrix) @ [*pixels[point], 1]
        world = truth[source[point]] @ [*(ray * depths[source[point]][y, x]), 1]
        for number in np.flatnonzero(tracks.visible[point]):
            local = inverse(truth[number]) @ world
            expected = (matrix @ local[:3])[:2] / local[2]
            errors.append(np.linalg.norm(tracks.pixels[point, number] - expected))
            u, v = np.clip(np.rint(expected).astype(int), 0, np.array(SIZE) - 1)
            hidden.append(depths[number][v, u] < 0.9 * local[2])
    assert len(errors) > 2 * len(pixels) // 7
    assert np.median(errors) < 0.2
    assert np.percentile(errors, 95) < 2
    assert np.mean(hidden) < 0.03


def test_files_are_those_of_the_photos(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """COLMAP reads the model; depth is what the report's unit says; tracks name the photos."""
    monkeypatch.setattr(command, "create_reconstructor", lambda config, progress: (oracle(), "the truth"))
    queries = tmp_path / "queries.txt"
    queries.write_text("# x y\n100 120\n200.5, 90\n")
    assert main([str(folder), "--output", str(tmp_path / "out"), "--query", str(queries), "--match"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["photos"]) == COUNT
    name, facts = next(iter(report["photos"].items()))
    stored = cv2.imread(str(tmp_path / "out" / "depth" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    truth = room().depth(orbit(60)[0], pinhole(*SIZE), SIZE)
    ratio = cv2.resize(truth, stored.shape[::-1], interpolation=cv2.INTER_NEAREST) / (stored * facts["unit"])
    assert np.std(np.log(ratio[stored > 0])) < 0.05
    assert facts["focal_px"][0] == pytest.approx(pinhole(*SIZE)[0, 0], rel=1e-6)
    lines = (tmp_path / "out" / "tracks.csv").read_text().splitlines()
    assert lines[:2] == ["point,image,x,y", "0,0.png,100.00,120.00"]
    assert {line.split(",")[0] for line in lines[1:]} == {"0", "1"}
    for picture in ("points.png", "tracks.png", "matches.png"):
        assert cv2.imread(str(tmp_path / "out" / picture)).std() > 5
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "colmap" / "sparse" / "0"))
    assert model.num_images() == COUNT
    assert all((tmp_path / "out" / "colmap" / "images" / image.name).exists() for image in model.images.values())


def test_a_network_does_one_photo_and_multiview_says_that_it_cannot(folder: Path, tmp_path: Path,
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from tiny_vggt import write_weights
    small = ["--set", f"vggt.weights={write_weights(tmp_path / 'weights')}", "--set", "vggt.device=cpu",
             "--set", "vggt.width=112", "--set", "reconstructor=vggt"]
    photo = str(folder / "0.png")
    assert main([photo, "--output", str(tmp_path / "one"), *small]) == 0
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert len(report["photos"]) == 1
    image = cv2.imread(str(next((tmp_path / "one" / "colmap" / "images").iterdir())))
    assert image.shape == (84, 112, 3)
    assert cv2.imread(str(next((tmp_path / "one" / "depth").iterdir())), cv2.IMREAD_UNCHANGED).shape == (84, 112)
    assert main([photo, "--output", str(tmp_path / "two"), "--set", "reconstructor=multiview"]) == 1
    assert "one photo alone needs a network" in capsys.readouterr().err


def test_photos_that_look_alike_are_neighbors(folder: Path) -> None:
    """Shuffled photos of a curve: steps in the order found are shorter than shuffled ones."""
    images = [cv2.imread(str(folder / f"{number}.png"))[..., ::-1] for number in range(COUNT)]
    shuffled = [0, 5, 2, 7, 1, 8, 4, 6, 3]
    order = similarity_order(similarities([Keyframe(i, i, np.ascontiguousarray(images[number]), pinhole(*SIZE))
                                           for i, number in enumerate(shuffled)]))
    assert sorted(order) == list(range(COUNT))
    steps = np.abs(np.diff([shuffled[row] for row in order]))
    assert steps.sum() < 0.6 * np.abs(np.diff(shuffled)).sum()


@pytest.mark.parametrize(("names", "extra", "reason"), [
    (["nothing.png"], [], "no such image"), (["broken.png"], [], "broken.png"),
    (["0.png"], ["--query", "bad.txt"], "line 2"), (["0.png"], ["--query", "empty.txt"], "no points")])
def test_wrong_input_is_named(folder: Path, tmp_path: Path, names: list[str], extra: list[str], reason: str,
                              capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "create_reconstructor", lambda config, progress: (oracle(), "the truth"))
    (tmp_path / "0.png").write_bytes((folder / "0.png").read_bytes())
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((50, 40, 3), np.uint8))
    (tmp_path / "broken.png").write_bytes((folder / "0.png").read_bytes()[:300])
    (tmp_path / "bad.txt").write_text("1 2\none two\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    arguments = [str(tmp_path / word) if word.endswith((".png", ".txt")) else word for word in (*names, *extra)]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 1
    assert reason in capsys.readouterr().err


def test_photos_that_cannot_be_used_are_left_out_and_named(folder: Path, tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken one, one of another size, sensor depth, and one that is named twice: the rest is reconstructed."""
    monkeypatch.setattr(command, "create_reconstructor", lambda config, progress: (oracle(), "the truth"))
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)
    (photos / "broken.png").write_bytes((folder / "0.png").read_bytes()[:300])
    cv2.imwrite(str(photos / "small.png"), np.zeros((50, 40, 3), np.uint8))
    cv2.imwrite(str(photos / "z_depth.png"), np.full(SIZE[::-1], 1000, np.uint16))
    assert main([str(photos), str(photos / "0.png"), "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert all(text in said for text in ("broken.png", "small.png: 40x50 pixels", "z_depth.png", "more than once"))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["photos"]) == COUNT
    assert {Path(name).name for name in report["missing"]} == {"broken.png", "small.png"}
    assert len(report["omitted"]) == 2


def test_photos_of_a_phone_that_is_held_upright(folder: Path, tmp_path: Path) -> None:
    """Stored on their side, with an orientation of EXIF: they are those that were taken, to the pixel."""
    for number in range(COUNT):
        image = cv2.imread(str(folder / f"{number}.png"))[..., ::-1]
        (tmp_path / f"{number}.png").write_bytes(tagged("png", turned(image, 6), 8))
    found = reconstruct_photos(find_photos([tmp_path])[0], oracle(), Config(), COUNT)
    straight = reconstruct_photos(find_photos([folder])[0], oracle(), Config(), COUNT)
    assert len(found.photos) == COUNT
    assert all(np.array_equal(one.image, two.image) for one, two in zip(found.photos, straight.photos, strict=True))
    assert "turned by 90 degrees to the left" in found.assumptions[0]


def test_a_calibration_beside_the_photos_is_used(folder: Path, tmp_path: Path) -> None:
    """Queries are pixels of the files: the reconstructed image, undistorted by OpenCV's map, shows the same there."""
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)
    matrix, distortion = pinhole(*SIZE), (-0.2, 0.05, 0.001, -0.001)
    (photos / "calibration.txt").write_text(" ".join(f"{value:.9g}" for value in (
        *matrix[[0, 1], [0, 1]], *matrix[:2, 2], *distortion)))
    found = reconstruct_photos(find_photos([photos])[0], oracle(), Config(), COUNT)
    assert found.rectifier.camera.calibrated
    pixels = np.array([[30.0, 40.0], [SIZE[0] / 2, SIZE[1] / 2], [SIZE[0] - 40.0, SIZE[1] - 30.0]])
    moved = command._in_reconstructed(found.rectifier, pixels)
    rays = np.linalg.inv(found.rectifier.intrinsics) @ np.column_stack([moved, np.ones(3)]).T
    back = cv2.projectPoints(rays.T[:, None], np.zeros(3), np.zeros(3), matrix, np.array(distortion))[0]
    assert np.abs(back[:, 0] - pixels).max() < 0.05


def test_a_signal_to_end_is_no_crash(tmp_path: Path) -> None:
    """SIGTERM, such as that of `timeout` or a service manager, ends it without a stack trace."""
    flat = cv2.imencode(".png", np.full((960, 1280, 3), 128, np.uint8))[1].tobytes()
    for index in range(200):
        (tmp_path / f"{index}.png").write_bytes(flat)
    process = subprocess.Popen([sys.executable, "-m", "vggt_ros.cli.reconstruct", str(tmp_path), "--output",
                                str(tmp_path / "out"), "--set", "reconstructor=multiview"], stderr=subprocess.PIPE,
                               text=True, cwd=ROOT)
    assert process.stderr is not None
    assert "200 photos, by multiview" in process.stderr.readline()
    process.terminate()
    assert process.communicate()[1] == "" and process.returncode == -signal.SIGTERM
