"""The grid compared with the exact room, and exports as other programs read them."""

import shutil
import struct
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest
import yaml
from floor_plan import cells_of, distance_to, surfaces
from scenes import lap, run, trajectory_error
from scipy.spatial import KDTree

from vggt_ros.cli import export as export_command
from vggt_ros.config import Config, GridConfig
from vggt_ros.geometry.poses import inverse, matrix_from_quaternion, pose, so3_exp
from vggt_ros.mapping.files.export import Export, write_nav2
from vggt_ros.mapping.grid.occupancy_grid import FREE, OCCUPIED, UNKNOWN, Grid, Occupancy, occupancy_grid
from vggt_ros.settings import ConfigError
from vggt_ros.storage.combined_record import combine
from vggt_ros.storage.files import read_ply, read_trajectory
from vggt_ros.storage.map_folder import save_map
from vggt_ros.synthetic import room
from vggt_ros.windows.point_cloud import PointCloud
from vggt_ros.windows.solution import MapKeyframe, Solution

SETTINGS = GridConfig(min_height=0.15, max_height=1.2)


@cache
def mapped():
    return run(lap(), Config(), lap().oracle()).slam


@cache
def in_the_room():
    """The solution in meters and in the room's own axes, z up."""
    solution = mapped().solution
    world_map = trajectory_error(*mapped().solution.trajectory(0), lap())[1]
    return replace(solution, map_camera=np.array([world_map.apply_pose(p) for p in solution.map_camera]),
                   scale=solution.scale * world_map.scale)


@cache
def grid():
    return occupancy_grid(in_the_room(), np.eye(4), SETTINGS)


@cache
def plan():
    return surfaces(room(), SETTINGS.min_height, SETTINGS.max_height)


def distance_to_surfaces(cells):
    return distance_to(plan(), grid(), cells)


def test_obstacles_are_where_surfaces_are():
    away = distance_to_surfaces(cells_of(grid(), OCCUPIED))
    assert len(away) > 50
    assert np.mean(away <= 1.5 * SETTINGS.resolution) > 0.97


def test_free_cells_are_free_and_in_the_room():
    """No free cell beyond a wall, and hardly one on a surface."""
    cells = cells_of(grid(), FREE)
    centers = grid().origin + (cells + 0.5) * grid().resolution
    assert len(cells) > 500
    assert (np.abs(centers) < (2.5 + 0.06, 2.0 + 0.06)).all()
    assert np.mean(distance_to_surfaces(cells) < 0.5 * SETTINGS.resolution) < 0.03


def test_where_the_camera_was_is_free():
    """The cells of the cameras, except where the trajectory passes above furniture."""
    cells = np.floor((in_the_room().map_camera[:, :2, 3] - grid().origin) / grid().resolution).astype(int)
    cells = cells[distance_to_surfaces(cells) > 0.2]
    assert len(cells) > 5
    assert np.mean(grid().cells[cells[:, 1], cells[:, 0]] == FREE) > 0.9


def test_what_nobody_has_seen_is_unknown():
    """All cells beyond the walls; with a single keyframe, also those behind the camera."""
    centers = grid().origin + (cells_of(grid(), UNKNOWN) + 0.5) * grid().resolution
    assert (np.abs(centers) > (2.5, 2.0)).any()
    whole = in_the_room()
    one = Solution(
        version=1,
        ids=whole.ids[:1],
        stamps=whole.stamps[:1],
        submaps=whole.submaps[:1],
        windows=whole.windows[:1],
        map_camera=whole.map_camera[:1],
        scale=whole.scale[:1],
        keyframes=whole.keyframes,
    )
    small = occupancy_grid(one, np.eye(4), SETTINGS)
    rows, columns = np.nonzero(small.cells != UNKNOWN)
    centers = small.origin + (np.column_stack([columns, rows]) + 0.5) * small.resolution
    ahead = (centers - one.map_camera[0, :2, 3]) @ one.map_camera[0, :2, 2]
    assert ahead.min() > -2 * small.resolution


def test_the_size_is_bounded():
    small = occupancy_grid(in_the_room(), np.eye(4), replace(SETTINGS, max_cells=30))
    assert max(small.cells.shape) == 30


def first(solution, count):
    """The solution with only the first `count` keyframes."""
    return replace(solution, ids=solution.ids[:count], stamps=solution.stamps[:count],
                   submaps=solution.submaps[:count], windows=solution.windows[:count],
                   map_camera=solution.map_camera[:count], scale=solution.scale[:count])


def assert_same(found, expected):
    assert (found.cells.shape, found.resolution) == (expected.cells.shape, expected.resolution)
    np.testing.assert_array_equal(found.origin, expected.origin)
    np.testing.assert_array_equal(found.cells, expected.cells)


@pytest.mark.parametrize("cells", [1500, 60])
def test_an_incremental_grid_equals_one_made_at_once(cells):
    """Also where the map is cropped, around a middle that moves; known keyframes are not cast again."""
    settings, whole = replace(SETTINGS, max_cells=cells), first(in_the_room(), 12)
    occupancy = Occupancy(settings)
    for count, casts in ((3, 3), (9, 9), (12, 12), (5, 12)):
        assert occupancy.update(first(whole, count), np.eye(4)) == 0
        assert_same(occupancy.grid(), occupancy_grid(first(whole, count), np.eye(4), settings))
        assert occupancy.casts == casts


def test_only_what_moved_is_cast_again():
    whole = first(in_the_room(), 10)
    occupancy = Occupancy(SETTINGS)
    occupancy.update(whole, np.eye(4))
    poses, scale = whole.map_camera.copy(), whole.scale.copy()
    poses[4, :3, 3] += 0.3
    poses[5, :3, :3] = so3_exp(np.array([0.0, 0.0, 0.2])) @ poses[5, :3, :3]
    scale[6] *= 1.1
    poses[7, :3, 3] += 0.001  # a fraction of a cell
    moved = replace(whole, map_camera=poses, scale=scale)
    occupancy.update(moved, np.eye(4))
    assert occupancy.casts == 10 + 3
    poses[7] = whole.map_camera[7]
    assert_same(occupancy.grid(), occupancy_grid(moved, np.eye(4), SETTINGS))


def test_small_moves_add_up():
    """The displacement of a keyframe that moves slowly counts from where it was cast, not from the last update."""
    one, shift = first(in_the_room(), 1), np.eye(4)
    occupancy = Occupancy(SETTINGS)
    for _ in range(30):
        shift[0, 3] += 0.01
        occupancy.update(one, shift)
    assert 30 * 0.01 / (0.5 * SETTINGS.resolution + 0.01) - 1 <= occupancy.casts < 30


def test_the_limit_spreads_a_turn_of_the_map_over_updates_with_new_keyframes_first():
    whole, turn = first(in_the_room(), 10), pose(so3_exp(np.array([0.0, 0.0, 0.5])), np.zeros(3))
    occupancy = Occupancy(SETTINGS)
    occupancy.update(first(whole, 8), np.eye(4))
    assert [occupancy.update(whole, turn, limit=4) for _ in range(4)] == [6, 2, 0, 0]
    assert occupancy.casts == 8 + 10
    assert_same(occupancy.grid(), occupancy_grid(whole, turn, SETTINGS))


def test_an_empty_map_has_an_empty_grid():
    assert occupancy_grid(Solution(), np.eye(4), SETTINGS).cells.size == 0


def test_the_minimum_height_must_be_below_the_maximum():
    with pytest.raises(ConfigError, match=r"grid\.min_height"):
        Config().replace({"grid.min_height": 2.0})


def test_nav2_reads_rows_from_the_top(tmp_path):
    """map_server: the first row of the image is the largest y; 0 is occupied, 254 free, 205 unknown."""
    cells = np.array([[FREE, OCCUPIED], [UNKNOWN, FREE]], np.int8)
    write_nav2(tmp_path / "map.yaml", Grid(cells, np.array([-1.0, 2.0]), 0.05))
    image = cv2.imread(str(tmp_path / "map.pgm"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(image, [[205, 254], [254, 0]])
    text = yaml.safe_load((tmp_path / "map.yaml").read_text())
    assert text["image"] == "map.pgm" and text["origin"] == [-1, 2, 0] and text["resolution"] == 0.05
    occupied = (255 - image.astype(float)) / 255  # as map_server interprets it
    assert ((occupied > text["occupied_thresh"]) == (cells[::-1] == OCCUPIED)).all()
    assert ((occupied < text["free_thresh"]) == (cells[::-1] == FREE)).all()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The demo room's map, saved and exported by the command, and the `Export` object of the same map."""
    folder = tmp_path_factory.mktemp("export")
    upright = lap().world_camera[0]
    record = mapped().record(upright)
    save_map(folder / "map", record, PointCloud.empty(), np.tile(np.eye(4), (len(record), 1, 1)), Config())
    assert export_command.main([str(folder / "map"), "--output", str(folder / "out")]) == 0
    return folder / "out", Export(record, Config())


def test_the_exported_trajectory_and_points_are_those_of_the_map(exported):
    folder, export = exported
    stamps, poses = read_trajectory(folder / "trajectory.txt")
    np.testing.assert_array_equal(stamps, export.solution.stamps)
    np.testing.assert_allclose(poses, export.map_camera, atol=1e-6)
    # Of two points in a voxel the live map has the one that came first, the exported one the more confident.
    written, live = read_ply(folder / "map.ply"), mapped().map_cloud().transformed(export.map_camera[0])
    assert len(written) == pytest.approx(len(live), rel=0.02)
    assert np.percentile(KDTree(live.points).query(written.points)[0], 99) < 1.8 * Config().map.voxel


def pairs_of_lines(text):
    """An image and its observations are two lines, the second of which may be empty (COLMAP's and nerfstudio's)."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.strip() and not line.startswith("#"):
            yield line.split(), next(lines, "").split()


def full_lines(text):
    """Empty lines are dropped first, then every second line is an image (scripts for Gaussian splatting)."""
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    yield from zip(lines[::2], lines[1::2], strict=True)


def binary(data):
    """The binary format, from its description: https://colmap.github.io/format.html."""
    (count,), at = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        number, *pose, camera = struct.unpack_from("<i7di", data, at)
        end = data.index(b"\0", at := at + 64)
        (features,) = struct.unpack_from("<Q", data, end + 1)
        values = [struct.unpack_from("<ddq", data, end + 9 + 24 * i) for i in range(features)]
        yield [str(number), *pose, str(camera), data[at:end].decode()], [word for item in values for word in item]
        at = end + 9 + 24 * features
    assert at == len(data)


@pytest.mark.parametrize("read", [pairs_of_lines, full_lines, binary])
def test_every_reader_finds_every_image_by_a_name_of_its_own(exported, read):
    folder, export = exported
    path = folder / "colmap" / "sparse" / "0" / f"images.{'bin' if read is binary else 'txt'}"
    rows = list(read(path.read_bytes() if read is binary else path.read_text()))
    assert len(rows) == len(export.solution)
    names = [image[9] for image, _ in rows]
    assert len({name.split(".")[0] for name in names}) == len(rows), "some readers cut a name at its first dot"
    assert all((folder / "colmap" / "images" / name).exists() for name in names)
    for row, (image, observations) in enumerate(rows):
        assert int(image[0]) == row + 1
        w, x, y, z, *translation = (float(word) for word in image[1:8])
        np.testing.assert_allclose(inverse(pose(matrix_from_quaternion(np.array([x, y, z, w])), translation)),
                                   export.map_camera[row], atol=1e-6)
        keyframe = export.solution.keyframes[int(export.solution.ids[row])]
        found = np.array(observations, float).reshape(-1, 3)
        np.testing.assert_allclose(found[:, :2], keyframe.pixels + 0.5, atol=0.006)


@pytest.mark.parametrize("kind", ["txt", "bin"])
def test_colmap_reads_the_model_and_projects_points_where_the_images_show_them(exported, kind, tmp_path):
    """Read by pycolmap; the colors of an image at the projected points are the points' colors."""
    pycolmap = pytest.importorskip("pycolmap")
    folder, export = exported
    for file in (folder / "colmap" / "sparse" / "0").glob(f"*.{kind}"):
        shutil.copy(file, tmp_path)
    model = pycolmap.Reconstruction(str(tmp_path))
    assert len(model.images) == len(export.solution) and len(model.points3D) == len(export.cloud)
    points = np.array([point.xyz for point in model.points3D.values()])
    colors = np.array([point.color for point in model.points3D.values()], float)
    close = []
    for row, image in enumerate(sorted(model.images.values(), key=lambda i: i.name)):
        camera_map = np.eye(4)
        camera_map[:3] = image.cam_from_world().matrix()
        np.testing.assert_allclose(inverse(camera_map), export.map_camera[row], atol=1e-6)
        if row % 8:
            continue
        picture = cv2.cvtColor(cv2.imread(str(folder / "colmap" / "images" / image.name)), cv2.COLOR_BGR2RGB)
        local = points @ camera_map[:3, :3].T + camera_map[:3, 3]
        keyframe = export.solution.keyframes[int(export.solution.ids[row])]
        k = model.cameras[image.camera_id].calibration_matrix()
        pixels = np.floor(local @ k.T / local[:, 2:])[:, :2].astype(int)  # COLMAP: pixel 0 covers 0 to 1
        height, width = picture.shape[:2]
        seen = (local[:, 2] > 0.1) & (pixels >= 0).all(1) & (pixels < (width, height)).all(1)
        there = keyframe.depth[pixels[seen, 1], pixels[seen, 0]].astype(float) * export.solution.scale[row]
        front = np.abs(there / local[seen, 2] - 1) < 0.02
        close.append(np.abs(picture[pixels[seen, 1], pixels[seen, 0]] - colors[seen])[front].mean(1))
    assert np.median(np.concatenate(close)) < 12


def test_images_of_keyframes_with_the_same_stamp_have_names_of_their_own(tmp_path):
    """As in merged maps of recordings whose stamps all begin at zero."""
    record = mapped().record(np.eye(4))
    record = replace(record, keyframe_stamp=record.keyframe_stamp % 3)
    Export(record, Config()).colmap(tmp_path)
    assert len(list((tmp_path / "colmap" / "images").iterdir())) == len(record)


def test_submaps_are_exported_apart(tmp_path, capsys):
    """Their relative poses are not known: in one file they would lie in each other."""
    record = mapped().record(np.eye(4))
    save_map(tmp_path / "map", combine([record, record]), PointCloud.empty(),
             np.tile(np.eye(4), (2 * len(record), 1, 1)), Config())
    arguments = [str(tmp_path / "map"), "--output", str(tmp_path / "out"), "--format", "tum"]
    assert export_command.main(arguments) == 0
    assert f"submap 1 of 2, which have {len(record)}, {len(record)} keyframes" in capsys.readouterr().err
    assert len(read_trajectory(tmp_path / "out" / "trajectory.txt")[0]) == len(record)
    one, both = Export(record, Config()), Export(combine([record, record]), Config(), submap=2)
    assert np.array_equal(both.map_camera, one.map_camera)
    assert len(both.cloud) == len(one.cloud)
    assert export_command.main([*arguments, "--submap", "3"]) == 1
    assert "there is no submap 3; the map has 2" in capsys.readouterr().err


def test_where_an_export_cannot_be_written_is_named(tmp_path, capsys):
    save_map(tmp_path / "map", mapped().record(np.eye(4)), PointCloud.empty(),
             np.tile(np.eye(4), (len(mapped().solution), 1, 1)), Config())
    (tmp_path / "file").write_text("mine")
    assert export_command.main([str(tmp_path / "map"), "--output", str(tmp_path / "file")]) == 1
    assert f"{tmp_path / 'file'}: it is a file; name a folder" in capsys.readouterr().err
    assert export_command.main([str(tmp_path / "map"), "--output", str(tmp_path / "map")]) == 1
    assert f"{tmp_path / 'map'}: a map is saved there, whose files are not overwritten" in capsys.readouterr().err


def test_export_reports_a_missing_map(tmp_path, capsys):
    assert export_command.main([str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 1
    assert "no map is saved there" in capsys.readouterr().err


def test_a_top_at_a_grazing_angle_has_no_gaps():
    """A board 0.4 m below a level camera, as far as a row of pixels is no farther from the next than a cell."""
    height, width, focal = 240, 320, 260.0
    rows = np.arange(height)[:, None] - (height - 1) / 2
    depth = np.tile(np.where(rows > 0, 0.4 * focal / np.where(rows > 0, rows, 1), np.nan), width)
    keyframe = MapKeyframe(0, 0, np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]),
                           depth.astype(np.float16), np.full((height, width), 255, np.uint8),
                           np.zeros((height, width, 3), np.uint8))
    level = pose(np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float), np.array([0, 0, 1.0]))
    zero = np.zeros(1, np.int64)
    board = occupancy_grid(Solution(0, zero, zero, zero, zero, level[None], np.ones(1), {0: keyframe}), np.eye(4),
                           GridConfig(max_range=2.0))
    centers = board.origin + (cells_of(board, OCCUPIED) + 0.5) * board.resolution
    inside = (centers[:, 0] > 1.05) & (centers[:, 0] < 1.95) & (np.abs(centers[:, 1]) < 0.5)
    assert inside.sum() == 18 * 20
