"""The occupancy grid published by the node over real DDS, compared with the exact room."""


import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy")
pytest.importorskip("tf2_ros", reason="needs tf2_ros or its stand-in")
from bench import CAMERA, LATCHED, Bench, stamp
from floor_plan import cells_of, distance_to, surfaces
from nav_msgs.msg import OccupancyGrid
from rclpy.parameter import Parameter
from scenes import lap, trajectory_error
from tf2_ros import StaticTransformBroadcaster

from vggt_ros.config import GridConfig
from vggt_ros.geometry.poses import inverse, pose
from vggt_ros.mapping.grid.occupancy_grid import FREE, OCCUPIED, UNKNOWN, Grid
from vggt_ros.ros.conversions import messages
from vggt_ros.synthetic import OracleNoise, SceneReconstructor, room

IMAGES = 60
BASE = pose(np.eye(3), np.array([*lap().world_camera[0][:2, 3], 0.0]))
"""Initial pose of the robot in the room: on the floor, below the first camera. It is the pose of `map` in the room."""


@pytest.fixture(scope="module")
def bench():
    """A robot with its camera in TF, after most of a lap around the room; the grid has no subscriber yet."""
    oracle = SceneReconstructor(room(), [f.stamp for f in lap().frames], lap().world_camera, OracleNoise(scale=0.3))
    made = Bench(oracle, [], tf__base_timeout=5.0)
    try:
        base_camera = inverse(BASE) @ lap().world_camera[0]
        StaticTransformBroadcaster(made.peer).sendTransform(messages.transform(base_camera, 0, "base_link", CAMERA))
        made.start()
        made.info(lap().frames[0])
        made.play(lap().frames[:IMAGES])
        made.settle(4.0)  # the last, partial window is solved after `windows.flush_after`
        yield made
    finally:
        made.close()


def received(bench):
    message = bench.got["map"][-1]
    origin = message.info.origin
    assert (origin.orientation.w, origin.position.z) == (1.0, 0.0)
    cells = np.array(message.data, np.int8).reshape(message.info.height, message.info.width)
    return Grid(cells, np.array([origin.position.x, origin.position.y]) + BASE[:2, 3], message.info.resolution)


def test_the_grid_is_the_floor_plan_of_the_room(bench):
    """Computed only once there is a subscriber, and computed again after the map was rescaled."""
    output, solution = bench.node.outputs.grid, bench.node.slam.solution
    assert len(solution) > 16 and not output._occupancy.casts  # expensive, and without a subscriber
    bench.record("/vggt_slam/map", OccupancyGrid, LATCHED)
    assert bench.spin(lambda: bench.got["map"])
    poses = np.array([bench.node.transforms.map_world @ camera for camera in solution.map_camera])
    _, room_map = trajectory_error(solution.stamps, poses, lap())
    bench.node.set_parameters([Parameter("scale.factor", value=room_map.scale)])
    assert bench.spin(lambda: bench.node.slam.solution.version > solution.version)
    bench.got["map"].clear()
    assert bench.spin(lambda: bench.got["map"])
    casts = -1
    while casts != output._occupancy.casts:  # until all keyframes are included
        casts = output._occupancy.casts
        bench.spin(seconds=3.0)
    message, grid, config = bench.got["map"][-1], received(bench), GridConfig()
    assert (message.header.frame_id, stamp(message)) == ("map", solution.stamps[-1])
    assert grid.resolution == pytest.approx(config.resolution)
    assert set(np.unique(grid.cells)) == {UNKNOWN, FREE, OCCUPIED}
    plan = surfaces(room(), config.min_height, config.max_height)
    occupied, free = cells_of(grid, OCCUPIED), cells_of(grid, FREE)
    assert len(occupied) > 50 and len(free) > 500
    assert np.mean(distance_to(plan, grid, occupied) <= 1.5 * grid.resolution) > 0.95
    assert np.mean(distance_to(plan, grid, free) < 0.5 * grid.resolution) < 0.03
    places = grid.origin + (free + 0.5) * grid.resolution
    assert (np.abs(places) < (2.5 + 0.06, 2.0 + 0.06)).all()


def test_a_map_that_does_not_change_is_not_published_again(bench):
    assert bench.got["map"]
    count, casts = len(bench.got["map"]), bench.node.outputs.grid._occupancy.casts
    bench.spin(seconds=3.0)
    assert (len(bench.got["map"]), bench.node.outputs.grid._occupancy.casts) == (count, casts)


def test_after_a_reset_the_grid_is_empty(bench):
    assert bench.call("reset").success
    assert bench.spin(lambda: not len(bench.got["map"][-1].data))
