"""reconstruct: cameras, depth and points of photos, without a robot and without an order in time."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vggt_ros.arguments import add_settings, count, given_path
from vggt_ros.cli.interrupts import ends_in_order
from vggt_ros.config import Config
from vggt_ros.evaluation.map_pictures import draw_map, without_single_points
from vggt_ros.geometry.camera import Rectifier, pixel_rays, resize_intrinsics
from vggt_ros.mapping.files.colmap_model import ModelImage, write_model
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.base import ReconstructorLost
from vggt_ros.replay.photo_tracks import corners, draw_tracks, read_queries, track, write_tracks
from vggt_ros.replay.photos import Collection, Photo, find_photos, reconstruct_photos
from vggt_ros.settings import ConfigError
from vggt_ros.storage.files import FileError, output_folder, write_picture, write_ply
from vggt_ros.threads import single_threaded_blas

_DEFAULTS = {"map.kept_width": 400}
"""Other defaults than for a robot: depth is kept larger, since there are few images."""
_AT_ONCE = 60


@ends_in_order(ConfigError, FileError, ReconstructorLost, OSError)
def main(args: list[str] | None = None, prog: str = "reconstruct") -> int:
    """Reconstruct the photos named on the command line."""
    parser = argparse.ArgumentParser(prog=prog, description="Reconstructs photos of one camera: poses, depth, points.")
    parser.add_argument("images", type=given_path, nargs="+", help="images, or folders of them")
    parser.add_argument("--output", type=given_path, required=True, metavar="FOLDER", help="folder for the results")
    parser.add_argument("--at-once", type=count, default=_AT_ONCE, metavar="N", help="most photos that are "
                        f"reconstructed together (default {_AT_ONCE}); more are split into windows that are fused")
    parser.add_argument("--order", choices=("name", "similarity"), default="name",
                        help="order of the photos in windows: as named (default), or by what they show")
    parser.add_argument("--query", type=given_path, metavar="FILE",
                        help="points of the first photo to track, `x y` a line")
    parser.add_argument("--match", action="store_true", help="match corners of every photo with all others")
    parser.add_argument("--calibration", type=given_path, metavar="FILE",
                        help="calibration of the camera (default: one beside the photos)")
    add_settings(parser, "change a setting, such as camera.fov")
    options = parser.parse_args(args)
    single_threaded_blas()
    config = Config().replace(_DEFAULTS).parse(options.set)
    files, left_out = find_photos(options.images)
    for line in left_out:
        print(f"reconstruct: {line}", file=sys.stderr)
    queries = None if options.query is None else read_queries(options.query)
    folder = output_folder(options.output, *options.images)
    reconstructor, reason = create_reconstructor(config, progress=lambda text: None)
    print(f"{len(files)} photos, by {reason}", file=sys.stderr)
    found = reconstruct_photos(files, reconstructor, config, max(2, options.at_once),
                               options.order == "similarity", sys.stderr.isatty(),
                               options.calibration)
    for line in (*(f"assumed: {text}" for text in found.assumptions), *found.omitted.lines, *found.refusals):
        print(f"reconstruct: {line}", file=sys.stderr)
    if not found.photos:
        print(f"reconstruct: nothing was reconstructed by {reconstructor.name}"
              + (": one photo alone needs a network (reconstructor: vggt)"
                 if len(files) - found.omitted.count == 1 else ""), file=sys.stderr)
        return 1
    figures = write(found, folder, reason)
    if queries is not None:
        source = np.zeros(len(queries), np.intp)
        _write_tracks(folder, "tracks", found.photos, source, _in_reconstructed(found.rectifier, queries), figures)
    if options.match:
        _write_tracks(folder, "matches", found.photos, *corners(found.photos), figures)
    (folder / "report.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(f"{len(found.photos)} of {len(files)} photos are in {folder}")
    return 0


def write(found: Collection, folder: Path, reason: str) -> dict[str, Any]:
    """Write model, points, depth and picture; return what the report says of them."""
    for part in ("colmap/sparse/0", "colmap/images", "depth"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    cloud = found.slam.map_cloud()
    model, depths = [], {}
    for number, photo in enumerate(found.photos, 1):
        height, width = photo.image.shape[:2]
        small_height, small_width = photo.keyframe.depth.shape
        matrix = resize_intrinsics(photo.keyframe.intrinsics, width / small_width, height / small_height)
        name = f"{number:04d}_{photo.path.stem.replace('.', '_')}"
        write_picture(folder / "colmap/images" / f"{name}.png", photo.image)
        model.append(ModelImage(f"{name}.png", (width, height), matrix, photo.map_camera, matrix[None, :2, 2]))
        depth = photo.depth()
        unit = float(np.nanmax(depth)) / 65000 if np.isfinite(depth).any() else 1.0
        write_picture(folder / "depth" / f"{name}.png", np.rint(np.nan_to_num(depth) / unit).astype(np.uint16))
        depths[name] = {"file": str(photo.path), "unit": unit, "focal_px": [matrix[0, 0], matrix[1, 1]]}
    write_model(folder / "colmap/sparse/0", model, cloud)
    write_ply(folder / "points.ply", cloud)
    if len(cloud.points):
        voxel = found.slam.surface.voxel
        draw_map(folder / "points.png", without_single_points(cloud, voxel),
                 np.array([photo.map_camera for photo in found.photos]), voxel)
    return {"reconstructor": reason, "photos": depths, "missing": [str(path) for path in found.missing],
            "refusals": found.refusals, "assumptions": list(found.assumptions), "omitted": found.omitted.lines,
            "points": len(cloud.points)}


def _in_reconstructed(rectifier: Rectifier, pixels: np.ndarray) -> np.ndarray:
    """Return pixels (n, 2) of a photo, as it is shown, as pixels of the image that the reconstructor got."""
    if not rectifier.camera.distortion:
        return np.asarray((pixel_rays(rectifier.camera.intrinsics, *pixels.T) @ rectifier.intrinsics.T)[:, :2])
    points = cv2.undistortPoints(pixels[:, None], rectifier.camera.intrinsics, np.array(rectifier.camera.distortion),
                                 P=rectifier.intrinsics)
    return np.asarray(points, np.float64)[:, 0]


def _write_tracks(folder: Path, name: str, photos: list[Photo], source: np.ndarray, pixels: np.ndarray,
                  figures: dict[str, Any]) -> None:
    """Write tracks as `NAME.csv`, in pixels of `colmap/images`, and `NAME.png`."""
    tracks = track(photos, source, pixels)
    write_tracks(folder / f"{name}.csv", tracks, photos)
    draw_tracks(folder / f"{name}.png", tracks, photos)
    figures[name] = {"points": len(pixels), "observations": int(tracks.visible.sum())}


if __name__ == "__main__":
    sys.exit(main())
