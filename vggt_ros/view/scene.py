"""The scene of a run in Rerun: camera, keyframes, windows, loops, depth, points and grid, in the z-up frame `map`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import rerun as rr
from numpy.typing import NDArray

from vggt_ros.geometry.poses import Array, quaternion_from_matrix
from vggt_ros.mapping.grid.occupancy_grid import FREE, OCCUPIED, Grid
from vggt_ros.view import layout
from vggt_ros.view.shapes import FRUSTUM_BLOCK, frusta, frustum_size, grid_quads, point_spacing
from vggt_ros.windows.point_cloud import PointCloud

_MEMORY = 512_000_000
"""Bytes that the web server keeps for browsers that come later; beyond it drops the oldest."""
_REFRESH = _MEMORY // 3
"""After so many bytes what is still valid is drawn again, so that the web server does not drop it."""
_MAX_IMAGE_WIDTH = 640
EDGE_COLORS = {"overlap": (150, 150, 150), "loop": (40, 220, 60), "refused": (230, 40, 40)}
"""Kind of an edge of the pose graph to its color."""
GRID_COLORS = {FREE: (70, 95, 78), OCCUPIED: (230, 60, 60)}
"""Value of a cell of the grid to its color; unknown cells are not drawn."""


class Scene:
    """What the viewer shows. Poses are `map_camera` 4x4, with optical axes; `map` is z up, its unit is the map's."""

    def __init__(self, recording: rr.RecordingStream, refresh: int | None = None) -> None:
        """Draw into an open recording, and everything again after `refresh` bytes; None: never."""
        self._recording, self._refresh = recording, refresh
        self._parts: dict[int, tuple[rr.Points3D, int]] = {}
        self._blocks: list[tuple[Array, NDArray[np.uint8], float]] = []
        self._bytes = 0
        self._last: dict[str, rr.AsComponents] = {}  # by entity, what is replaced as a whole
        self._frustum = 0.0
        self._status = ""
        recording.send_blueprint(layout.layout())
        recording.log("map", rr.ViewCoordinates.FLU, static=True)

    @classmethod
    def to_file(cls, path: Path) -> Scene:
        """Return a scene that is written to a file (.rrd)."""
        recording = rr.RecordingStream("vggt_ros")
        recording.save(path)
        return cls(recording)

    @classmethod
    def to_web(cls, port: int) -> Scene:
        """Return a scene that is shown on a web page at `port`, to any machine; its data are at the next port."""
        recording = rr.RecordingStream("vggt_ros")
        url = recording.serve_grpc(grpc_port=port + 1, server_memory_limit=f"{_MEMORY // 1_000_000}MB",
                                   cors_allow_origin=[f"http://*:{port}"])
        rr.serve_web_viewer(web_port=port, open_browser=False, connect_to=url)
        return cls(recording, _REFRESH)

    @classmethod
    def to_window(cls) -> Scene:
        """Return a scene that is shown in a window of Rerun's viewer, a program of its own."""
        recording = rr.RecordingStream("vggt_ros")
        recording.spawn()
        return cls(recording)

    def close(self) -> None:
        """Write everything that is still buffered."""
        self._recording.flush()
        self._recording.disconnect()

    def time(self, stamp: int) -> None:
        """Date what follows: the stamp of the newest image, nanoseconds."""
        self._recording.set_time(layout.TIMELINE, timestamp=np.datetime64(stamp, "ns"))

    def image(self, image: NDArray[np.uint8] | bytes) -> None:
        """Show the image of the camera, RGB (H, W, 3) or JPEG or PNG data."""
        if isinstance(image, bytes):
            data = image
        else:
            if image.shape[1] > _MAX_IMAGE_WIDTH:
                height = round(image.shape[0] * _MAX_IMAGE_WIDTH / image.shape[1])
                image = np.asarray(cv2.resize(image, (_MAX_IMAGE_WIDTH, height), interpolation=cv2.INTER_AREA),
                                   np.uint8)
            data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
        kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
        self._log(layout.IMAGE, rr.EncodedImage(contents=data, media_type=kind), len(data))

    def camera(self, map_camera: Array | None, intrinsics: Array, size: tuple[int, int]) -> None:
        """Show the camera at its pose; not at all if the pose is None. `intrinsics` are for `size`, width and height.

        The image is drawn in the plane of the camera, at its reduced size.
        """
        if map_camera is None:
            self._recording.log(layout.CAMERA, rr.Clear(recursive=False))
            return
        factor = min(1.0, _MAX_IMAGE_WIDTH / size[0])
        pinhole = rr.Pinhole(focal_length=[factor * intrinsics[0, 0], factor * intrinsics[1, 1]],
                             principal_point=[factor * (intrinsics[0, 2] + 0.5), factor * (intrinsics[1, 2] + 0.5)],
                             width=round(factor * size[0]), height=round(factor * size[1]),
                             image_plane_distance=3 * self._frustum if self._frustum else None)
        self._recording.log(layout.CAMERA, _transform(map_camera), pinhole)

    def keyframes(self, map_camera: Array, colors: NDArray[np.uint8] | None = None) -> None:
        """Show keyframes (n, 4, 4) as frusta, RGB `colors` (n, 3), and the path through them, replacing earlier ones.

        Only blocks of keyframes that have changed by more than a fraction of their size are drawn again.
        """
        if colors is None or len(colors) != len(map_camera):
            colors = np.full((len(map_camera), 3), (90, 190, 255), np.uint8)
        self._frustum = size = frustum_size(map_camera)
        count = -(-len(map_camera) // FRUSTUM_BLOCK)
        for block in range(max(count, len(self._blocks))):
            chosen = slice(block * FRUSTUM_BLOCK, (block + 1) * FRUSTUM_BLOCK)
            poses, own_colors = map_camera[chosen].copy(), colors[chosen].copy()
            if block < len(self._blocks):
                old_poses, old_colors, old_size = self._blocks[block]
                if size == old_size and len(poses) == len(old_poses) and np.array_equal(own_colors, old_colors) \
                        and np.abs(poses - old_poses).max(initial=0) < 0.02 * size:
                    continue
                self._blocks[block] = poses, own_colors, size
            else:
                self._blocks.append((poses, own_colors, size))
            self._replace(f"{layout.KEYFRAMES}/{block}", rr.LineStrips3D(frusta(poses, size), colors=own_colors),
                          160 * len(poses))
        del self._blocks[count:]
        self._replace(layout.PATH, rr.LineStrips3D([map_camera[:, :3, 3]] if len(map_camera) else [],
                                                   colors=[(200, 200, 210)]), 12 * len(map_camera))

    def graph(self, windows: Array, edges: Mapping[str, Array]) -> None:
        """Show the windows' origins (w, 3), and edges, kind (see `EDGE_COLORS`) to its ends (m, 2, 3)."""
        self._replace(layout.WINDOWS, rr.Points3D(windows, colors=(230, 230, 230), radii=rr.Radius.ui_points(3.0)),
                      16 * len(windows))
        for kind, color in EDGE_COLORS.items():
            lines = edges.get(kind, np.zeros((0, 2, 3))).astype(np.float32)
            width = rr.Radius.ui_points(0.8 if kind == "overlap" else 1.8)
            self._replace(f"{layout.EDGES}/{kind}", rr.LineStrips3D(lines, colors=color, radii=width), 24 * len(lines))

    def depth(self, depth: NDArray[np.floating]) -> None:
        """Show the depth (h, w) of a keyframe, map units, NaN where unknown; the viewer gets zeros there."""
        known = depth[np.isfinite(depth)]
        far = float(np.percentile(known, 95)) if len(known) else 1.0
        self._log(layout.DEPTH, rr.DepthImage(np.nan_to_num(depth).astype(np.float16), meter=1.0, colormap="turbo",
                                              depth_range=[0.0, far]), 2 * depth.size)

    def points(self, parts: Mapping[int, PointCloud]) -> None:
        """Replace the points of some keyframes, by id; an empty cloud removes them."""
        clouds = [cloud for cloud in parts.values() if len(cloud) > 1]
        radius = 0.6 * point_spacing(max(clouds, key=len).points) if clouds else 0.0
        for keyframe, cloud in parts.items():
            entity = f"{layout.POINTS}/{keyframe}"
            if len(cloud):
                drawn = rr.Points3D(cloud.points, colors=cloud.colors, radii=radius)
                self._parts[keyframe] = drawn, 16 * len(cloud)
                self._log(entity, drawn, 16 * len(cloud))
            elif self._parts.pop(keyframe, None) is not None:
                self._recording.log(entity, rr.Clear(recursive=False))

    def grid(self, grid: Grid) -> None:
        """Show the occupancy grid on the plane z = 0."""
        vertices, triangles, values = grid_quads(grid)
        if not len(values):
            self._recording.log(layout.GRID, rr.Clear(recursive=False))
            self._last.pop(layout.GRID, None)
            return
        colors = np.where((values == OCCUPIED)[:, None], GRID_COLORS[OCCUPIED], GRID_COLORS[FREE]).astype(np.uint8)
        self._replace(layout.GRID, rr.Mesh3D(vertex_positions=vertices, triangle_indices=triangles,
                                             vertex_colors=colors.repeat(4, axis=0)), 88 * len(values))

    def message(self, text: str, level: str = "INFO") -> None:
        """Add a line to the messages, unless it is the same as the one before; `level` INFO, WARN or ERROR."""
        if text and text != self._status:
            self._status = text
            self._recording.log(layout.STATUS, rr.TextLog(text, level=level))

    def number(self, name: str, value: float) -> None:
        """Add a value to the plot of `name`."""
        self._recording.log(f"{layout.NUMBERS}/{name.replace(' ', '_')}", rr.Scalars(value))

    def clear(self) -> None:
        """Remove the map, after a reset."""
        self._recording.log("map", rr.Clear(recursive=True))
        self._parts, self._blocks, self._last = {}, [], {}

    def _replace(self, entity: str, what: rr.AsComponents, size: int) -> None:
        self._last[entity] = what
        self._log(entity, what, size)

    def _log(self, entity: str, what: rr.AsComponents, size: int) -> None:
        """Draw, and count `size` bytes; after many of them draw all that is valid again."""
        self._recording.log(entity, what)
        self._bytes += size + 200
        if self._refresh is not None and self._bytes > self._refresh:
            self._bytes = 0
            for name, drawn in self._last.items():
                self._recording.log(name, drawn)
            for keyframe, (points, _) in self._parts.items():
                self._recording.log(f"{layout.POINTS}/{keyframe}", points)


def _transform(map_camera: Array) -> rr.Transform3D:
    return rr.Transform3D(translation=map_camera[:3, 3],
                          quaternion=rr.Quaternion(xyzw=quaternion_from_matrix(map_camera[:3, :3])))
