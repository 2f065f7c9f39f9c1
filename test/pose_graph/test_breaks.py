"""A saved map keeps the breaks of the chain of windows."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from graphs import LOOP, aliasing_shift, graph_with_break, position_rmse
from saved_maps import UPRIGHT, save
from scenes import lap, run

from vggt_ros.config import Config
from vggt_ros.geometry.poses import Sim3, pose, so3_exp
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.pose_graph.relative_poses import LoopMeasurement
from vggt_ros.storage.map_folder import StorageError, load_map
from vggt_ros.storage.map_record import KINDS, MapRecord
from vggt_ros.synthetic import SceneReconstructor


def test_a_restored_graph_keeps_its_break():
    """A loop that contradicts the break is rejected with the same chi-square; without the break it stays pending."""
    rng = np.random.default_rng(6)
    graph, truth = graph_with_break(rng, np.zeros(7))
    kinds = [edge.kind for edge in graph.edges]
    assert kinds.count("break") == 1 and graph.edges[-1].first == 39 and graph.edges[-1].second == 40
    restored_graph, without_break = PoseGraph(), PoseGraph()
    restored_graph.restore(dict(graph.map_node), graph.anchors, graph.edges)
    without_break.restore(dict(graph.map_node), graph.anchors, [edge for edge in graph.edges if edge.kind != "break"])
    false = truth[5].inverse() @ aliasing_shift(truth, 22, 44) @ truth[44]
    loops = [one.add_loop(5, 44, false, LOOP) for one in (graph, restored_graph, without_break)]
    assert "its chi-square" in loops[0].reason and loops[1].reason == loops[0].reason
    assert loops[2].reason.startswith("waiting")
    for one in (graph, restored_graph):
        assert one.add_loop(6, 46, truth[6].inverse() @ truth[46], LOOP).accepted and one.component(60) == 0
        assert position_rmse(one, truth) < 0.01
    third = PoseGraph()
    third.restore(dict(graph.map_node), graph.anchors, graph.edges)
    assert third.component(60) == 0 and third.edges[-1].kind == "break" and position_rmse(third, truth) < 0.01


class TurnedWindow(SceneReconstructor):
    """Turns all keyframes of one window but the first by 0.3 rad."""

    def reconstruct(self, window):
        geometry = super().reconstruct(window)
        if window.id == 3:
            geometry.window_camera[1:] = geometry.window_camera[1:] @ pose(so3_exp(np.array([0, 0.3, 0])), np.zeros(3))
        return geometry


@cache
def record() -> MapRecord:
    slam = run(lap(), Config().replace({"loops.enabled": False}), lap().oracle(TurnedWindow)).slam
    assert slam.counts.submaps == 2
    return slam.record(UPRIGHT)


def restored(folder) -> Atlas:
    atlas = Atlas(Config())
    atlas.restore(load_map(folder))
    return atlas


def test_a_loop_that_contradicts_the_break_of_a_loaded_map_is_rejected(tmp_path):
    """As before saving; in a map whose file does not have the break it only stays pending."""
    save(tmp_path / "map", record())
    no_break = record().edge_kind != KINDS.index("break")
    assert (~no_break).sum() == 1
    save(tmp_path / "old", replace(record(), **{name: getattr(record(), name)[no_break] for name in (
        "edge_first", "edge_second", "edge_kind", "edge_pose", "edge_scale", "edge_covariance")}))
    first, second = (int(record().keyframe_id[record().keyframe_submap == submap][5]) for submap in (0, 1))
    false = LoopMeasurement(Sim3(1.0, so3_exp(np.array([0, 2.0, 0])), np.array([3.0, 0, 0])), np.eye(7) * 1e-4)
    loops = [restored(tmp_path / name).close_loop(first, second, false) for name in ("map", "old")]
    assert "its chi-square" in loops[0].reason and loops[1].reason.startswith("waiting")
    assert not any(loop.accepted for loop in loops)
    saved_again = restored(tmp_path / "map").record(record().next_keyframe, record().next_window, UPRIGHT)
    np.testing.assert_array_equal(saved_again.edge_kind, record().edge_kind)
    np.testing.assert_allclose(saved_again.edge_pose, record().edge_pose, atol=1e-9)
    np.testing.assert_allclose(saved_again.edge_covariance, record().edge_covariance, atol=1e-12)


@pytest.mark.parametrize(("first", "second"), [(-1, -2), (0, 0), (1, 0)])
def test_a_break_with_invalid_ends_is_reported(tmp_path, first, second):
    """To a node that is no anchor, from a node to itself, and from a later node; in rows relative to the anchor's."""
    row = np.flatnonzero(record().edge_kind == KINDS.index("break"))[0]
    anchor = record().window_id.tolist().index(record().edge_second[row])
    changed = {name: getattr(record(), name).copy() for name in ("edge_first", "edge_second")}
    for name, offset in (("edge_first", first), ("edge_second", second)):
        changed[name][row] = record().window_id[anchor + offset]
    save(tmp_path / "map", replace(record(), **changed))
    with pytest.raises(StorageError, match="a break leads to no anchor"):
        load_map(tmp_path / "map")
