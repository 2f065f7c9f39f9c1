"""The view of a run: a file has everything at its place and time, and errors say what would be right."""

import contextlib
import shutil
import socket
import sys
import time

import cv2
import numpy as np
import pytest

pytest.importorskip("rerun", reason="needs rerun-sdk")
from browser import Chromium
from rrd import colors, read

from vggt_ros.cli.replay import main
from vggt_ros.config import Config
from vggt_ros.geometry.poses import BODY_OPTICAL, matrix_from_quaternion
from vggt_ros.mapping.grid.occupancy_grid import FREE, OCCUPIED, UNKNOWN, Grid, occupancy_grid
from vggt_ros.replay.run import run
from vggt_ros.storage.map_folder import save_map
from vggt_ros.synthetic import RenderedSequence, SceneReconstructor, laps, room
from vggt_ros.view import opening
from vggt_ros.view.opening import ViewError, open_view, web_address
from vggt_ros.view.scene import Scene
from vggt_ros.view.shapes import frusta, frustum_size, point_spacing
from vggt_ros.view.slam_view import SlamView
from vggt_ros.windows.point_cloud import PointCloud

pytestmark = pytest.mark.filterwarnings("error::rerun.error_utils.RerunWarning")
ROOM = room(texel=0.008)


class Window:
    """What the viewer shows at the end of a file: entity to its last row, if that is no removal."""

    def __init__(self, path):
        self.rows = read(path)
        self.last = {name: rows[-1] for name, rows in self.rows.items() if not rows[-1].cleared}

    def below(self, entity):
        return {name.removeprefix(f"/{entity}/"): row for name, row in self.last.items()
                if name.startswith(f"/{entity}/")}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A replay with a view: the run, its frames, and the file."""
    path = tmp_path_factory.mktemp("view") / "run.rrd"
    sequence = RenderedSequence("room", ROOM, laps(110, laps=0.5)[:50], size=(320, 240))
    view, frames, solutions = SlamView(open_view(file=path), BODY_OPTICAL), [], []

    def on_frame(slam, frame, tracked):
        frames.append(frame)
        view.on_frame(slam, frame, tracked)

    def on_update(slam, update):
        solutions.append((frames[-1].stamp, slam.solution))
        view.on_update(slam, update)

    config = Config().replace({"windows.size": 5, "windows.overlap": 2})
    result = run(sequence, config, SceneReconstructor(ROOM, *sequence.truth), on_frame=on_frame, on_update=on_update)
    view.show_map(result.slam)  # as `replay` does: at the end, all depth that is due is fused again
    view.close()
    return result, frames, solutions, Window(path)


def test_every_image_is_there_at_its_time(shown):
    _, frames, _, window = shown
    rows = window.rows["/map/camera/image"]
    assert [row.time for row in rows] == [frame.stamp for frame in frames]
    for row, frame in list(zip(rows, frames, strict=True))[::15]:
        blob = np.array(row.values["EncodedImage:blob"][0], np.uint8)
        picture = cv2.cvtColor(cv2.imdecode(blob, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert np.abs(picture.astype(float) - frame.image).mean() < 6


def test_the_camera_has_the_pose_of_every_image_or_is_hidden(shown):
    result, frames, _, window = shown
    rows = window.rows["/map/camera"]
    assert [row.time for row in rows] == [frame.stamp for frame in frames]
    assert 3 < sum(row.cleared for row in rows) < 25  # before the first window
    for row, frame, tracked in zip(rows, frames, result.frames, strict=True):
        late = frame.stamp in {one.stamp for one in result.slam.located_late}  # located after it was shown
        assert row.cleared == (tracked.map_camera is None or late)
        if row.cleared:
            continue
        pose = BODY_OPTICAL @ tracked.map_camera
        np.testing.assert_allclose(row.array("Transform3D:translation")[0], pose[:3, 3], atol=1e-5)
        rotation = matrix_from_quaternion(row.array("Transform3D:quaternion")[0])
        np.testing.assert_allclose(rotation, pose[:3, :3], atol=1e-5)
        projection = row.array("Pinhole:image_from_camera")[0].reshape(3, 3).T  # stored column by column
        np.testing.assert_allclose(np.diag(projection)[:2], np.diag(frame.intrinsics)[:2], rtol=1e-6)
        assert row.values["Pinhole:resolution"] == [[320.0, 240.0]]


def test_the_points_are_those_of_the_map(shown):
    result, _, solutions, window = shown
    slam, parts = result.slam, window.below("map/points")
    ours = {k: slam.surface.keyframe_cloud(k, slam.solution).transformed(BODY_OPTICAL)
            for k in slam.surface.keyframes}
    assert set(map(int, parts)) == {k for k, cloud in ours.items() if len(cloud)}
    assert sum(map(len, ours.values())) == len(slam.map_cloud()) > 5000
    for keyframe, row in parts.items():
        cloud = ours[int(keyframe)]
        points = row.array("Points3D:positions")
        assert np.linalg.norm(points - cloud.points, axis=1).max() < 2 * Config().map.voxel
        np.testing.assert_array_equal(colors(row, "Points3D:colors"), cloud.colors)
        assert 0.3 < row.array("Points3D:radii")[0] / Config().map.voxel < 2
    first = [row.time for rows in window.rows.items() if rows[0].startswith("/map/points/") for row in rows[1][:1]]
    assert set(first) == {stamp for stamp, _ in solutions}  # the map grows with the windows


def test_keyframes_windows_and_overlaps_are_those_of_the_graph(shown):
    result, _, solutions, window = shown
    solution = result.slam.solution
    centers = (BODY_OPTICAL @ solution.map_camera)[:, :3, 3]
    strips = window.last["/map/keyframes/0"].array("LineStrips3D:strips")
    assert strips.shape == (len(solution), 10, 3)
    size = frustum_size(solution.map_camera)
    assert np.linalg.norm(strips[:, 5] - centers, axis=1).max() < 0.1 * size  # the line passes through the center
    ahead = (BODY_OPTICAL @ solution.map_camera)[:, :3, 2]
    np.testing.assert_allclose(((strips[:, 0] - centers) * ahead).sum(1), size, rtol=0.1)
    np.testing.assert_allclose(window.last["/map/path"].array("LineStrips3D:strips")[0], centers, atol=1e-5)
    windows = window.last["/map/windows"].array("Points3D:positions")
    np.testing.assert_allclose(windows, solution.window_origin @ BODY_OPTICAL[:3, :3].T, atol=1e-5)
    overlaps = window.last["/map/edges/overlap"].array("LineStrips3D:strips")
    assert len(overlaps) == sum(edge.kind == "overlap" for edge in solution.edges) > 2
    # The last one is of the end, when all depth that is due is fused again.
    assert [row.time for row in window.rows["/map/path"]][:-1] == [stamp for stamp, _ in solutions]


def test_depth_and_grid_are_those_of_the_map(shown):
    result, _, solutions, window = shown
    solution = result.slam.solution
    rows = window.rows["/depth"]
    assert [row.time for row in rows] == [stamp for stamp, _ in solutions]
    keyframe = solution.keyframes[result.updates[-1].keyframes[-1]]
    depth = np.array(rows[-1].values["DepthImage:buffer"][0], np.uint8).view(np.float16).reshape(keyframe.depth.shape)
    expected = np.nan_to_num(keyframe.depth.astype(np.float32) * solution.scale[-1])
    np.testing.assert_allclose(depth.astype(float), expected, rtol=2e-3)
    grid = occupancy_grid(solution, BODY_OPTICAL, Config().grid)
    quads = window.last["/map/grid"].array("Mesh3D:vertex_positions").reshape(-1, 4, 3)
    red = colors(window.last["/map/grid"], "Mesh3D:vertex_colors")[::4, 0] > 200
    drawn = np.full(grid.cells.shape, UNKNOWN)
    corners = np.rint((quads[:, :, :2] - grid.origin) / grid.resolution).astype(int)
    for corner, occupied in zip(corners, red, strict=True):
        (left, low), (right, high) = corner.min(0), corner.max(0)
        drawn[max(low, 0):high, max(left, 0):right] = OCCUPIED if occupied else FREE
    assert (quads[..., 2] == 0).all()
    assert (drawn == grid.cells).mean() > 0.97  # keyframes that moved by a fraction of a cell were not cast again


def test_messages_say_when_tracking_begins(shown):
    _, _, _, window = shown
    assert [row.values["TextLog:text"][0] for row in window.rows["/status"]][:2] == ["initializing", "tracking"]
    assert len(window.rows["/numbers/inliers"]) == 50


def test_loops_and_refused_loops_have_their_colors(tmp_path):
    scene = Scene.to_file(tmp_path / "graph.rrd")
    scene.graph(np.eye(3), {"loop": np.ones((2, 2, 3)), "refused": np.zeros((1, 2, 3))})
    scene.close()
    window = Window(tmp_path / "graph.rrd")
    edges = {kind: window.last[f"/map/edges/{kind}"] for kind in ("overlap", "loop", "refused")}
    assert {kind: len(row.values["LineStrips3D:strips"]) for kind, row in edges.items()} == \
        {"overlap": 0, "loop": 2, "refused": 1}
    assert colors(edges["loop"], "LineStrips3D:colors")[0].argmax() == 1  # green
    assert colors(edges["refused"], "LineStrips3D:colors")[0].argmax() == 0  # red


def cloud(count, at=0.0):
    return PointCloud(np.full((count, 3), at, np.float32), np.zeros((count, 3), np.uint8), np.ones(count, np.float32),
                      np.zeros((count, 3), np.float32))


def test_what_is_gone_is_removed(tmp_path):
    scene = Scene.to_file(tmp_path / "gone.rrd")
    scene.keyframes(np.tile(np.eye(4), (130, 1, 1)))
    scene.points({1: cloud(10), 2: cloud(20)})
    scene.points({2: cloud(0), 3: cloud(0)})
    scene.keyframes(np.tile(np.eye(4), (3, 1, 1)))
    scene.grid(Grid(np.array([[FREE]], np.int8), np.zeros(2), 0.1))
    scene.grid(Grid(np.zeros((0, 0), np.int8), np.zeros(2), 0.1))
    scene.close()
    window = Window(tmp_path / "gone.rrd")
    assert list(window.below("map/points")) == ["1"] and "/map/points/3" not in window.rows
    assert [len(row.values["LineStrips3D:strips"]) for row in window.below("map/keyframes").values()] == [3, 0, 0]
    assert "/map/grid" not in window.last


def test_only_keyframes_that_moved_are_drawn_again(tmp_path):
    scene, poses = Scene.to_file(tmp_path / "moved.rrd"), np.tile(np.eye(4), (130, 1, 1))
    poses[:, 0, 3] = np.arange(130)
    scene.keyframes(poses)
    poses[70, 1, 3] = 0.5
    scene.keyframes(poses)
    scene.close()
    rows = read(tmp_path / "moved.rrd")
    assert [len(rows[f"/map/keyframes/{block}"]) for block in range(3)] == [1, 2, 1]


def test_what_a_web_server_drops_is_drawn_again(tmp_path):
    """It keeps a bounded number of the newest bytes: whatever still holds has to be among them."""
    import rerun as rr

    recording = rr.RecordingStream("test")
    recording.save(tmp_path / "long.rrd")
    scene = Scene(recording, refresh=50_000)
    scene.points({k: cloud(20) for k in range(5)})
    scene.keyframes(np.tile(np.eye(4), (3, 1, 1)))
    for step in range(30):
        scene.time(10**9 * step)
        scene.image(np.random.default_rng(step).integers(0, 255, (60, 80, 3), np.uint8))
    scene.close()
    rows = read(tmp_path / "long.rrd")
    images = rows["/map/camera/image"]
    sizes = np.array([len(row.values["EncodedImage:blob"][0]) for row in images])
    assert sizes.sum() > 150_000
    for name in ("/map/points/0", "/map/points/4", "/map/keyframes/0", "/map/path"):
        newest = max(row.time or 0 for row in rows[name])
        assert sizes[[row.time >= newest for row in images]].sum() < 55_000, name


def test_shapes():
    line = frusta(np.eye(4)[None], 2.0)[0]
    assert line.shape == (10, 3) and (line[5] == 0).all() and (line[[0, 1, 2, 3], 2] == 2).all()
    drawn = {tuple(sorted(map(tuple, np.round(pair, 3).tolist()))) for pair in np.stack([line[:-1], line[1:]], 1)}
    assert len(drawn) == 8  # all edges: four at the image, four to the center
    rng = np.random.default_rng(0)
    steps = np.tile(np.eye(4), (50, 1, 1))
    steps[:, 0, 3] = np.cumsum(rng.uniform(0.9, 1.1, 50))
    assert frustum_size(steps) == frustum_size(steps[:10]) == 1.0
    lattice = np.stack(np.meshgrid(*3 * [np.arange(10) * 0.1]), -1).reshape(-1, 3).astype(np.float32) + 100
    assert point_spacing(lattice) == pytest.approx(0.1, rel=0.01)
    assert point_spacing(lattice[:1]) == 0.0


def test_replay_writes_a_file(tmp_path, capsys):
    sequence = RenderedSequence("room", ROOM, laps(110, laps=0.5)[:6], size=(320, 240))
    for index, (_, image) in enumerate(sequence):
        cv2.imwrite(str(tmp_path / f"{index:02d}.png"), image[..., ::-1])
    assert main([str(tmp_path), "--output", str(tmp_path / "out"), "--rrd", str(tmp_path / "run.rrd"),
                 "--set", "reconstructor=multiview"]) in (0, 2)  # so few images may give a map or none
    assert len(read(tmp_path / "run.rrd")["/map/camera/image"]) == 6


def test_a_loaded_map_is_shown_from_the_start(shown, tmp_path):
    slam = shown[0].slam
    record = slam.record(BODY_OPTICAL)
    save_map(tmp_path / "map", record, slam.map_cloud(), slam.solution.map_camera, Config())
    sequence = RenderedSequence("room", ROOM, laps(110, laps=0.5)[20:23], size=(320, 240))
    view = SlamView(Scene.to_file(tmp_path / "loaded.rrd"), record.map_world)
    run(sequence, Config(mode="localization"), SceneReconstructor(ROOM, *sequence.truth), loaded=record,
        on_frame=view.on_frame)
    view.close()
    window = Window(tmp_path / "loaded.rrd")
    assert len(window.below("map/points")) > 5
    assert {row.time for row in window.below("map/points").values()} == {int(sequence.truth[0][0])}


@pytest.mark.parametrize(("options", "words"), [
    (["--rrd", "/nowhere/run.rrd"], "/nowhere/run.rrd: there is no folder /nowhere"),
    (["--rrd", "/"], "directory"),
    (["--view"], "use --web or --rrd FILE"),
    (["--web", "99999"], "port 99999 cannot be used"),
])
def test_errors_say_what_would_be_right(tmp_path, capsys, monkeypatch, options, words):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((240, 320, 3), np.uint8))
    assert main([str(tmp_path), "--output", str(tmp_path / "out"), *options]) == 1
    assert words in capsys.readouterr().err


def test_a_port_in_use_is_named():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ViewError, match=f"port {port} cannot be used.*choose another one"):
            open_view(web=port)


def test_without_rerun_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "vggt_ros.view.scene")
    monkeypatch.delitem(sys.modules, "vggt_ros.view.layout")
    monkeypatch.setitem(sys.modules, "rerun", None)  # as if it was not installed
    with pytest.raises(ViewError, match=r"pip install 'rerun-sdk>=0\.32'"):
        open_view(file=tmp_path / "run.rrd")


def test_the_address_of_the_web_page_has_the_place_of_its_data():
    assert web_address(9090, "robot") == "http://robot:9090/?url=rerun%2Bhttp://robot:9091/proxy"
    assert socket.gethostname() in web_address(opening.WEB_PORT)


def free_port():
    """Return a port that is free, as is the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("", 0))
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("", first.getsockname()[1] + 1))
                return first.getsockname()[1]


def hues(image):
    """Return the distribution of hues of the colorful pixels (n, 3), 30 bins, and their number."""
    converted = cv2.cvtColor(image.reshape(-1, 1, 3), cv2.COLOR_RGB2HSV)[:, 0]
    colorful = converted[(converted[:, 1] > 60) & (converted[:, 2] > 40)]
    return np.histogram(colorful[:, 0], 30, (0, 180))[0] / max(len(colorful), 1), len(colorful)


@pytest.mark.slow  # a browser that renders by software takes a minute
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium: apt-get install chromium")
def test_a_browser_shows_the_map(shown):
    """The web page in Chromium without a window has the hues of the map where the layout has the map."""
    slam, frames, port = shown[0].slam, shown[1], free_port()
    scene = open_view(web=port)
    view = SlamView(scene, BODY_OPTICAL)
    scene.time(frames[-1].stamp)
    with Chromium((1000, 700)) as browser:
        browser.open(web_address(port, "localhost"))
        scene.image(frames[-1].image)
        scene._recording.flush()
        time.sleep(5)
        without = browser.picture()[80:500, :600]
        view.show_map(slam)
        scene._recording.flush()
        ours, _ = hues(slam.map_cloud().colors)
        end, shared = time.monotonic() + 90, 0.0
        while shared < 0.6 and time.monotonic() < end:
            time.sleep(2)
            part = browser.picture()[80:500, :600]
            theirs, count = hues(np.ascontiguousarray(part))
            shared = float(np.minimum(ours, theirs).sum()) if count > 0.05 * part.shape[0] * part.shape[1] else 0.0
    scene.close()
    others = [float(np.minimum(np.roll(ours, shift), theirs).sum()) for shift in range(6, 25)]
    assert shared >= 0.4 and shared > max(others), (shared, others)  # not as if the map had other colors
    assert hues(np.ascontiguousarray(without))[1] < 0.2 * count
