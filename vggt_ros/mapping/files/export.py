"""Export of a saved map: PLY, TUM, COLMAP, the map format of Nav2's map_server, and meshes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vggt_ros.config import Config
from vggt_ros.geometry.poses import Array
from vggt_ros.mapping.dense.mesh import extract
from vggt_ros.mapping.dense.surface import Surface
from vggt_ros.mapping.dense.volume import fuse
from vggt_ros.mapping.files.colmap_model import ModelImage, write_model
from vggt_ros.mapping.grid.occupancy_grid import FREE, OCCUPIED, Grid, occupancy_grid
from vggt_ros.mapping.submaps.atlas import Atlas
from vggt_ros.storage.files import write_picture, write_ply, write_trajectory
from vggt_ros.storage.map_record import MapRecord
from vggt_ros.storage.mesh_files import write_glb, write_mesh_ply
from vggt_ros.windows.point_cloud import PointCloud
from vggt_ros.windows.solution import Solution


class ExportError(RuntimeError):
    """The map has nothing to write in a format."""


class Export:
    """One submap of a saved map in the z-up frame `map`, and methods that write it in other formats.

    Attributes:
        sizes: numbers of keyframes of all submaps, the largest first.

    """

    def __init__(self, record: MapRecord, config: Config, submap: int = 1) -> None:
        """Rebuild the map from a record; `config` has the settings for points and grid.

        Submaps are numbered by their size: 1 is the largest. Their relative poses are not known, so they do not go into
        one file.

        Raises:
            ExportError: there is no such submap.

        """
        atlas = Atlas(config)
        atlas.restore(record)
        whole = atlas.solution()
        counts = np.bincount(whole.submaps)
        order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
        self.sizes = [int(counts[label]) for label in order]
        if not 1 <= submap <= len(order):
            raise ExportError(f"there is no submap {submap}; the map has {len(order)}, with "
                              f"{', '.join(map(str, self.sizes))} keyframes")
        self.solution: Solution = whole.restricted(np.flatnonzero(whole.submaps == order[submap - 1]))
        surface = self._surface = Surface(config.map)
        surface.update(self.solution, complete=True)
        map_world = record.map_world
        self._map_world, self._config = map_world, config
        self.map_camera: Array = map_world @ self.solution.map_camera
        self.cloud: PointCloud = surface.cloud(self.solution).transformed(map_world)

    def ply(self, folder: Path) -> list[Path]:
        """Write `map.ply`."""
        write_ply(folder / "map.ply", self.cloud)
        return [folder / "map.ply"]

    def tum(self, folder: Path) -> list[Path]:
        """Write `trajectory.txt`: the poses of the keyframes' optical frames in `map`."""
        write_trajectory(folder / "trajectory.txt", self.solution.stamps, self.map_camera)
        return [folder / "trajectory.txt"]

    def colmap(self, folder: Path) -> list[Path]:
        """Write a model into `colmap/sparse/0`, and the keyframes' images into `colmap/images`.

        For Gaussian splatting: the images have the reduced size that the map keeps (`map.kept_width`).
        """
        sparse, images = folder / "colmap" / "sparse" / "0", folder / "colmap" / "images"
        for part in (sparse, images):
            part.mkdir(parents=True, exist_ok=True)
        model = []
        stamps, counts = np.unique(self.solution.stamps, return_counts=True)
        repeated = set(stamps[counts > 1].tolist())  # such as those of merged recordings that all begin at zero
        for row, keyframe_id in enumerate(self.solution.ids.tolist()):
            keyframe = self.solution.keyframes[keyframe_id]
            height, width = keyframe.depth.shape
            name = f"{keyframe.stamp}_{keyframe_id}.png" if keyframe.stamp in repeated else f"{keyframe.stamp}.png"
            write_picture(images / name, np.asarray(keyframe.color))
            pixels = keyframe.pixels if len(keyframe.pixels) else keyframe.intrinsics[None, :2, 2]
            model.append(ModelImage(name, (width, height), keyframe.intrinsics, self.map_camera[row], pixels))
        write_model(sparse, model, self.cloud)
        return [sparse, images]

    def nav2(self, folder: Path) -> list[Path]:
        """Write `nav2.pgm` and `nav2.yaml` for map_server, in its trinary mode."""
        grid = occupancy_grid(self.solution, self._map_world, self._config.grid, self._surface.fused(self.solution))
        write_nav2(folder / "nav2.yaml", grid)
        return [folder / "nav2.yaml", folder / "nav2.pgm"]

    def mesh(self, folder: Path) -> list[Path]:
        """Write `mesh.ply` and `mesh.glb`: the surface that at least two keyframes saw, with the colors of vertices.

        Raises:
            ExportError: there is no such surface.

        """
        views = list(self._surface.views(self.solution))
        placed = [replace(view, map_camera=self._map_world @ view.map_camera) for view in views]
        mesh = extract(fuse(lambda: tqdm(placed, unit="keyframe", disable=None, leave=False),
                            self.solution.keyframes, self._surface.voxel, self._config.map))
        if not len(mesh.faces):
            raise ExportError("mesh: no surface was seen by two keyframes; lower map.min_confidence, or export the "
                              "points (--format ply)")
        write_mesh_ply(folder / "mesh.ply", mesh.vertices, mesh.normals, mesh.colors, mesh.faces)
        write_glb(folder / "mesh.glb", mesh.vertices, mesh.normals, mesh.colors, mesh.faces)
        return [folder / "mesh.ply", folder / "mesh.glb"]


FORMATS = ("ply", "tum", "colmap", "nav2", "mesh")
"""Names of the methods of `Export` that write a format."""


def write_nav2(path: Path, grid: Grid) -> None:
    """Write a grid in map_server's format: `path` (yaml) and a pgm beside it, whose first row is the largest y.

    https://docs.nav2.org/configuration/packages/configuring-map-server.html: free 254, occupied 0, unknown 205.
    """
    pixels: NDArray[np.uint8] = np.full(grid.cells.shape, 205, np.uint8)
    pixels[grid.cells == FREE], pixels[grid.cells == OCCUPIED] = 254, 0
    height, width = pixels.shape
    image = path.with_suffix(".pgm")
    image.write_bytes(f"P5\n{width} {height}\n255\n".encode() + pixels[::-1].tobytes())
    x, y = (float(value) for value in grid.origin)
    path.write_text(f"image: {image.name}\nmode: trinary\nresolution: {grid.resolution:.6g}\n"
                    f"origin: [{x:.6g}, {y:.6g}, 0]\nnegate: 0\noccupied_thresh: 0.65\nfree_thresh: 0.196\n")
