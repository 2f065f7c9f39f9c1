"""The mesh: exact shapes, the demo's room, and files as trimesh opens them."""

from functools import cache

import numpy as np
import pytest
from scenes import lap, run, trajectory_error

from vggt_ros.cli import export as export_command
from vggt_ros.config import Config, MapConfig
from vggt_ros.geometry.poses import pose
from vggt_ros.mapping.dense.mesh import extract
from vggt_ros.mapping.dense.surface import SurfaceView
from vggt_ros.mapping.dense.volume import fuse
from vggt_ros.storage.map_folder import save_map
from vggt_ros.storage.mesh_files import write_glb, write_mesh_ply
from vggt_ros.synthetic import room
from vggt_ros.windows.point_cloud import PointCloud
from vggt_ros.windows.solution import MapKeyframe

trimesh = pytest.importorskip("trimesh", reason="needs trimesh")
INTRINSICS = np.array([[150.0, 0, 99.5], [0, 150.0, 74.5], [0, 0, 1]])
CENTER, RADIUS = np.array([0.1, -0.05, 2.0]), 0.5


def looking_at_ball(angle):
    """Return a camera on a circle around the ball, in the plane of x and z, that looks at its center."""
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1.0, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return pose(turn, CENTER - 2.0 * turn[:, 2])


def ball_view(index, map_camera, wrong=0.0, behind=np.nan):
    """Return the exact depth of a red ball from a camera, and its keyframe; some pixels have the depth `wrong`."""
    columns, rows = np.meshgrid(np.arange(200), np.arange(150))
    rays = np.stack([(columns - 99.5) / 150, (rows - 74.5) / 150, np.ones(rows.shape)], -1)
    center = map_camera[:3, :3].T @ (CENTER - map_camera[:3, 3])
    a, b = (rays**2).sum(-1), rays @ center
    root = b**2 - a * (center @ center - RADIUS**2)
    depth = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, behind).astype(np.float32)
    if wrong:
        depth[60:90, 80:110] = wrong
    color = np.broadcast_to(np.array([200, 40, 60], np.uint8), (150, 200, 3))
    keyframe = MapKeyframe(index, index, INTRINSICS, depth.astype(np.float16), np.full(depth.shape, 255, np.uint8),
                           color)
    return SurfaceView(index, map_camera, depth, np.where(depth > 0, np.float32(1), np.float32(0))), keyframe


def ball(angles, voxel=0.02, wrong=(), behind=np.nan):
    made = [ball_view(i, looking_at_ball(angle), 1.2 if i in wrong else 0.0, behind) for i, angle in enumerate(angles)]
    views, keyframes = [view for view, _ in made], {keyframe.id: keyframe for _, keyframe in made}
    return extract(fuse(lambda: views, keyframes, voxel, MapConfig()))


ANGLES = np.linspace(0, 2 * np.pi, 12, endpoint=False)


def test_a_ball_is_a_ball_with_its_color_and_normals_outward():
    mesh = ball(ANGLES)
    radius = np.linalg.norm(mesh.vertices - CENTER, axis=1)
    assert len(mesh.faces) > 5000
    assert np.median(np.abs(radius - RADIUS)) < 0.004 and np.percentile(np.abs(radius - RADIUS), 99) < 0.03
    outward = (mesh.vertices - CENTER) / radius[:, None]
    assert np.median((mesh.normals * outward).sum(1)) > 0.99
    assert np.abs(mesh.colors.astype(int) - [200, 40, 60]).max() <= 1
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert solid.is_winding_consistent
    corners = mesh.vertices[mesh.faces]
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((faces * (corners.mean(1) - CENTER)).sum(1) > 0).mean() > 0.98
    edges, count = np.unique(np.sort(solid.edges, axis=1), axis=0, return_counts=True)
    middle = np.abs(mesh.vertices[edges].mean(1)[:, 1] - CENTER[1]) < 0.6 * RADIUS
    assert (count[middle] == 2).mean() > 0.99  # closed where it was seen: around its middle


def test_what_one_keyframe_has_wrong_is_carved_away_by_those_that_see_through():
    """In a room with walls 3 m from the ball: the patch is 0.3 m before the ball."""
    mesh = ball(ANGLES, 0.04, wrong=(3,), behind=5.0)
    radius = np.linalg.norm(mesh.vertices - CENTER, axis=1)
    assert (radius < 0.6).sum() > 1500 and ((radius > 0.6) & (radius < 1.2)).sum() < 20


def test_what_a_single_keyframe_saw_is_no_surface():
    assert not len(ball(ANGLES[:1]).faces)
    assert len(ball(ANGLES[:2]).faces) > 500


def test_voxels_are_doubled_while_there_are_too_many(monkeypatch):
    import vggt_ros.mapping.dense.volume as module

    monkeypatch.setattr(module, "_MAX_BLOCKS", 200)
    view, keyframe = ball_view(0, looking_at_ball(0.0))
    volume = fuse(lambda: [view], {0: keyframe}, 0.01, MapConfig())
    assert volume.voxel in (0.02, 0.04, 0.08) and len(volume.corners) <= 200


def test_an_empty_map_has_an_empty_mesh():
    mesh = extract(fuse(list, {}, 0.02, MapConfig()))
    assert mesh.vertices.shape == (0, 3) and mesh.faces.shape == (0, 3)


@cache
def mapped():
    return run(lap(), Config(), lap().oracle()).slam


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The mesh of the demo's room, made by the command from a saved map whose `map` is the room, up to its unit."""
    folder = tmp_path_factory.mktemp("mesh")
    record = mapped().record(lap().world_camera[0])
    save_map(folder / "map", record, PointCloud.empty(), np.tile(np.eye(4), (len(record), 1, 1)), Config())
    assert export_command.main([str(folder / "map"), "--output", str(folder), "--format", "mesh"]) == 0
    return folder


def test_the_room_is_where_the_scene_has_it(exported):
    """Distances of vertices to the room along the rays of its cameras, at most a voxel for most of them."""
    mesh = trimesh.load(exported / "mesh.ply", process=False)
    slam, scene = mapped(), room()
    _, room_map = trajectory_error(*slam.solution.trajectory(0), lap())
    world_map = lap().world_camera[0]  # the frame of the saved map
    points = (np.asarray(mesh.vertices) - world_map[:3, 3]) @ world_map[:3, :3]
    points = room_map.apply(points)
    checked, close = 0, 0
    for frame, camera in list(zip(lap().frames, lap().world_camera, strict=True))[::13]:
        local = (points - camera[:3, 3]) @ camera[:3, :3]
        ahead = local[:, 2] > 0.2
        pixels = local[ahead, :2] / local[ahead, 2:] * np.diag(frame.intrinsics)[:2] + frame.intrinsics[:2, 2]
        size = frame.image.shape[1], frame.image.shape[0]
        inside = (pixels > 0).all(1) & (pixels < np.array(size) - 1).all(1)
        columns, rows = np.rint(pixels[inside]).astype(int).T
        true = scene.depth(camera, frame.intrinsics, size)[rows, columns]
        difference = local[ahead][inside, 2] - true
        visible = difference < 0.1  # others are behind something
        checked += visible.sum()
        close += (np.abs(difference[visible]) < 0.03).sum()
    assert len(mesh.faces) > 20_000 and checked > 20_000
    assert close / checked > 0.9


def test_ply_and_glb_are_the_same_mesh_and_glb_has_y_up(exported):
    ply = trimesh.load(exported / "mesh.ply", process=False)
    scene = trimesh.load(exported / "mesh.glb", process=False)
    (node,) = scene.geometry.values()
    np.testing.assert_array_equal(node.faces, ply.faces)
    np.testing.assert_allclose(node.vertices, ply.vertices, atol=1e-6)
    np.testing.assert_allclose(node.vertex_normals, ply.vertex_normals, atol=1e-3)
    linear = np.asarray(node.visual.vertex_attributes["color"], float)[:, :3] / 65535
    colors = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9)**(1 / 2.4) - 0.055)
    np.testing.assert_allclose(colors, ply.visual.vertex_colors[:, :3], atol=1)
    assert ply.visual.vertex_colors[:, :3].std(0).min() > 10
    placed = scene.to_geometry()
    np.testing.assert_allclose(placed.vertices[:, 1], ply.vertices[:, 2], atol=1e-5)  # up
    np.testing.assert_allclose(placed.vertices[:, 2], -ply.vertices[:, 1], atol=1e-5)


def test_files_of_a_single_triangle(tmp_path):
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    normals, faces = np.tile(np.array([0, 0, 1], np.float32), (3, 1)), np.array([[0, 1, 2]], np.int32)
    colors = np.array([[255, 0, 0], [0, 255, 0], [7, 8, 9]], np.uint8)
    write_mesh_ply(tmp_path / "one.ply", vertices, normals, colors, faces)
    write_glb(tmp_path / "one.glb", vertices, normals, colors, faces)
    ply = trimesh.load(tmp_path / "one.ply", process=False)
    np.testing.assert_array_equal(ply.visual.vertex_colors[:, :3], colors)
    np.testing.assert_array_equal(ply.vertices, vertices)
    (one,) = trimesh.load(tmp_path / "one.glb", process=False).geometry.values()
    np.testing.assert_array_equal(one.faces, faces)


def test_a_map_without_a_surface_is_reported(tmp_path, capsys, monkeypatch):
    import vggt_ros.mapping.dense.mesh as module

    monkeypatch.setattr(module, "_MIN_VIEWS", 1000)
    record = mapped().record(np.eye(4))
    save_map(tmp_path / "map", record, PointCloud.empty(), np.tile(np.eye(4), (len(record), 1, 1)), Config())
    assert export_command.main([str(tmp_path / "map"), "--output", str(tmp_path), "--format", "mesh"]) == 1
    assert "no surface was seen by two keyframes" in capsys.readouterr().err
