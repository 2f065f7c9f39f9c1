"""Where the chain of windows broke is part of a saved map."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from graphs import LOOP, broken, error, look_alike
from saved_maps import UPRIGHT, save
from scenes import lap, run

from vggt_ros.config import Config
from vggt_ros.geometry.poses import Sim3, pose, so3_exp
from vggt_ros.mapping.atlas import Atlas
from vggt_ros.pose_graph.graph import PoseGraph
from vggt_ros.pose_graph.relative_poses import LoopMeasurement
from vggt_ros.storage.map_folder import StorageError, load_map
from vggt_ros.storage.map_record import KINDS, MapRecord
from vggt_ros.synthetic import SceneReconstructor


def test_a_restored_graph_knows_where_its_chain_broke():
    """A loop against the place is refused as before, by the same figure; submaps of a map without it join anywhere."""
    rng = np.random.default_rng(6)
    graph, truth = broken(rng, np.zeros(7))
    kinds = [edge.kind for edge in graph.edges]
    assert kinds.count("break") == 1 and graph.edges[-1].first == 39 and graph.edges[-1].second == 40
    again, older = PoseGraph(), PoseGraph()
    again.restore(dict(graph.map_node), graph.anchors, graph.edges)
    older.restore(dict(graph.map_node), graph.anchors, [edge for edge in graph.edges if edge.kind != "break"])
    false = truth[5].inverse() @ look_alike(truth, 22, 44) @ truth[44]
    said = [one.add_loop(5, 44, false, LOOP) for one in (graph, again, older)]
    assert "off by chi-square" in said[0].reason and said[1].reason == said[0].reason
    assert said[2].reason.startswith("waits")
    for one in (graph, again):
        assert one.add_loop(6, 46, truth[6].inverse() @ truth[46], LOOP).accepted and one.component(60) == 0
        assert error(one, truth) < 0.01
    third = PoseGraph()
    third.restore(dict(graph.map_node), graph.anchors, graph.edges)
    assert third.component(60) == 0 and third.edges[-1].kind == "break" and error(third, truth) < 0.01


class Twisted(SceneReconstructor):
    """Turns all keyframes of a window but the first away."""

    def reconstruct(self, window):
        geometry = super().reconstruct(window)
        if window.id == 3:
            geometry.window_camera[1:] = geometry.window_camera[1:] @ pose(so3_exp(np.array([0, 0.3, 0])), np.zeros(3))
        return geometry


@cache
def record() -> MapRecord:
    slam = run(lap(), Config().replace({"loops.enabled": False}), lap().oracle(Twisted)).slam
    assert slam.counts.submaps == 2
    return slam.record(UPRIGHT)


def restored(folder) -> Atlas:
    atlas = Atlas(Config())
    atlas.restore(load_map(folder))
    return atlas


def test_a_loop_against_the_break_of_a_loaded_map_is_refused(tmp_path):
    """As it would have been before saving; by a map whose file does not hold the break it is only made to wait."""
    save(tmp_path / "map", record())
    kept = record().edge_kind != KINDS.index("break")
    assert (~kept).sum() == 1
    save(tmp_path / "old", replace(record(), **{name: getattr(record(), name)[kept] for name in (
        "edge_first", "edge_second", "edge_kind", "edge_pose", "edge_scale", "edge_covariance")}))
    first, second = (int(record().keyframe_id[record().keyframe_submap == submap][5]) for submap in (0, 1))
    false = LoopMeasurement(Sim3(1.0, so3_exp(np.array([0, 2.0, 0])), np.array([3.0, 0, 0])), np.eye(7) * 1e-4)
    said = [restored(tmp_path / name).close_loop(first, second, false) for name in ("map", "old")]
    assert "off by chi-square" in said[0].reason and said[1].reason.startswith("waits")
    assert not any(loop.accepted for loop in said)
    again = restored(tmp_path / "map").record(record().next_keyframe, record().next_window, UPRIGHT)
    np.testing.assert_array_equal(again.edge_kind, record().edge_kind)
    np.testing.assert_allclose(again.edge_pose, record().edge_pose, atol=1e-9)
    np.testing.assert_allclose(again.edge_covariance, record().edge_covariance, atol=1e-12)


@pytest.mark.parametrize(("above", "below"), [(-1, -2), (0, 0), (1, 0)])
def test_a_break_that_leads_nowhere_is_named(tmp_path, above, below):
    """To a node that begins nothing, to the same one, and from one that came later; rows from that of the anchor."""
    row = np.flatnonzero(record().edge_kind == KINDS.index("break"))[0]
    anchor = record().window_id.tolist().index(record().edge_second[row])
    changed = {name: getattr(record(), name).copy() for name in ("edge_first", "edge_second")}
    for name, offset in (("edge_first", above), ("edge_second", below)):
        changed[name][row] = record().window_id[anchor + offset]
    save(tmp_path / "map", replace(record(), **changed))
    with pytest.raises(StorageError, match="a break leads to no anchor"):
        load_map(tmp_path / "map")
