"""Output of a run: trajectories, map, pictures, depth maps, and the figures of report.json."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from vggt_ros.evaluation.map_pictures import draw_map, draw_map_from_above, without_single_points
from vggt_ros.evaluation.pictures import draw_trajectory
from vggt_ros.geometry.poses import BODY_OPTICAL
from vggt_ros.odometry.solved_focal import solved_intrinsics
from vggt_ros.replay.advice import contradicted_calibration
from vggt_ros.replay.run import Run
from vggt_ros.storage.files import format_stamp, write_ply, write_trajectory
from vggt_ros.storage.map_folder import StorageError, save_map
from vggt_ros.windows.solution import UNKNOWN


def report(result: Run) -> dict[str, Any]:
    """Return the figures of a run for report.json; lengths are in meters where the name says so."""
    slam, solution, figures = result.slam, result.slam.solution, result.accuracy()
    unscaled = result.accuracy(with_scale=False) if solution.metric.state != UNKNOWN else None
    update_seconds = [update.seconds for update in result.updates]
    new_keyframes = int((solution.ids >= result.first_keyframe).sum())
    return {
        "sequence": result.sequence.name,
        "images": len(result.frames),
        "interrupted": result.interrupted,
        "ate_rmse_m": figures and figures.ate_rmse,
        "ate_rmse_unscaled_m": unscaled and unscaled.ate_rmse,
        "ate_percent_of_path": figures and 100 * figures.ate_rmse / figures.path if figures and figures.path else None,
        "path_m": figures and figures.path,
        "coverage": figures and figures.coverage,
        **result.frame_figures(),
        "images_located": sum(tracked.map_camera is not None for tracked in result.frames),
        "images_per_keyframe": len(result.frames) / max(new_keyframes, 1),
        "keyframes": new_keyframes,
        "keyframes_loaded": 0 if result.loaded is None else len(result.loaded),
        "largest_submap_keyframes": int((solution.submaps == solution.largest_submap).sum()),
        "windows": slam.counts.windows,
        "submaps": len(np.unique(solution.submaps)),
        "seconds_a_window_median": float(np.median(update_seconds)) if update_seconds else None,
        "wall_seconds": result.seconds,
        "counts": dataclasses.asdict(slam.counts),
        "dropped_images": result.dropped_images,
        "time_jumps": result.jumps,
        "omitted_images": result.sequence.omitted.lines,
        "dark_images": result.dark_images,
        "failures": result.failures,
        "refusals": [update.refused for update in result.updates if update.refused],
        "notes": [f"window {update.window}: {note}" for update in result.updates for note in update.notes],
        "loops": [update.loop for update in result.updates if update.loop],
        "adjusted": result.adjusted,
        "scale": solution.metric.state,
        "scale_sigma": solution.metric.sigma,
        "scale_by": solution.metric.source,
        "scale_sources": result.slam.scale.report,
        **_focal(result),
        "calibration": contradicted_calibration(result) or None,
        "reconstructor": result.reconstructor,
        "workers": result.workers,
        "assumptions": list(result.sequence.assumptions),
        "settings": {setting.name: value for setting, value in result.config},
    }


def _focal(result: Run) -> dict[str, float | None]:
    """Return the focal length that was found for an uncalibrated camera, px of its images, and the field of view."""
    solution, camera = result.slam.solution, result.sequence.camera
    new = [keyframe for number, keyframe in solution.keyframes.items() if number >= result.first_keyframe]
    if camera.calibrated or not len(solution) or not new:  # a loaded map may be of another camera
        return {"focal_px": None, "field_of_view_deg": None}
    focal = float(solved_intrinsics(camera.intrinsics, camera.width, new)[0, 0])
    return {"focal_px": focal, "field_of_view_deg": float(np.degrees(2 * np.arctan(
        max(camera.width, camera.height) / 2 / focal)))}


def write(result: Run, folder: Path, depth: bool = False) -> dict[str, Any]:
    """Write trajectories, map, pictures and report into `folder`, and with `depth` the depth maps; return the report.

    `trajectory.txt` and `frames.txt` are of the largest submap, files with a number are of the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slam, solution = result.slam, result.slam.solution
    for pattern in ("trajectory_*.txt", "frames_*.txt", "depth/*.npz"):  # an earlier run may have had more
        for old in folder.glob(pattern):
            old.unlink()
    largest = solution.largest_submap
    for submap in sorted({largest, *np.unique(solution.submaps).tolist()}):
        suffix = "" if submap == largest else f"_{submap}"
        write_trajectory(folder / f"trajectory{suffix}.txt", *result.trajectory(submap))
        write_trajectory(folder / f"frames{suffix}.txt", *result.frame_trajectory(submap))
    cloud = slam.map_cloud()
    write_ply(folder / "map.ply", cloud)
    figures = report(result)
    stamps, poses = result.trajectory(largest)
    if len(stamps):
        accuracy = result.accuracy()
        draw_trajectory(folder / "trajectory.png", stamps, poses, result.sequence.truth if accuracy else None,
                        accuracy, result.sequence.name)
        cloud = without_single_points(cloud, slam.surface.voxel)
        draw_map(folder / "map.png", cloud, poses, slam.surface.voxel)
        draw_map_from_above(folder / "map_above.png", cloud, poses, slam.surface.voxel,
                            "map unit" if solution.metric.state == UNKNOWN else "m")
    if depth:
        write_depth(result, folder / "depth")
    (folder / "report.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def write_depth(result: Run, folder: Path) -> None:
    """Write `<stamp>.npz` for every keyframe: depth in map units and confidence (h, w), and K for that image size.

    Those of a loaded map, whose recording may have the same stamps, are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    solution = result.slam.solution
    for keyframe in solution.ids.tolist():
        if keyframe < result.first_keyframe:
            continue
        stored = solution.keyframes[keyframe]
        np.savez_compressed(folder / f"{format_stamp(stored.stamp)}.npz",
                            depth=solution.depth(keyframe),
                            confidence=stored.confidence.astype(np.float32) / 255, K=stored.intrinsics)


def save(result: Run, folder: Path) -> None:
    """Save the map, for `--load`, the node's `~/load_map` and `export`.

    A map that began in this run is made z up on the assumption that the first camera was level.

    Raises:
        StorageError: the map is empty, or the folder holds something other than a map.
        OSError: the folder cannot be written.

    """
    slam, map_world = result.slam, BODY_OPTICAL if result.loaded is None else result.loaded.map_world
    if not len(slam.solution):
        raise StorageError("nothing is mapped, so there is nothing to save")
    save_map(
        folder,
        slam.record(map_world),
        slam.map_cloud().transformed(map_world),
        map_world @ slam.solution.map_camera,
        result.config,
    )


def summary(figures: dict[str, Any]) -> str:
    """Return the report in a few lines."""
    lines = [f"{figures['images']} images, {figures['keyframes']} keyframes, {figures['windows']} window"
             f"{'s' if figures['windows'] != 1 else ''}, "
             f"{figures['submaps']} submap{'s' if figures['submaps'] != 1 else ''}, {figures['wall_seconds']:.0f} s"]
    if figures["keyframes_loaded"]:
        lines.append(f"{figures['images_located']} images were located; the loaded map had "
                     f"{figures['keyframes_loaded']} keyframes")
    elif figures["frames_located"] and figures["frames_rpe_1s_m"] is None:
        lines.append(f"images {100 * figures['frames_located']:.1f} % located")
    if figures["field_of_view_deg"] is not None:
        lines.append(f"focal length {figures['focal_px']:.0f} px, found: a field of view of "
                     f"{figures['field_of_view_deg']:.1f} degrees")
    if figures["ate_rmse_m"] is not None:
        lines.append(f"ATE RMSE {figures['ate_rmse_m']:.4f} m after Sim(3) = {figures['ate_percent_of_path']:.2f} % of "
                     f"{figures['path_m']:.1f} m; coverage {100 * figures['coverage']:.0f} %")
    if figures["adjusted"]:
        lines.append(figures["adjusted"])
    if figures["frames_rpe_1s_m"] is not None:
        lines.append(f"images {100 * figures['frames_located']:.1f} % located, ATE RMSE "
                     f"{figures['frames_ate_rmse_m']:.4f} m, RPE over 1 s {figures['frames_rpe_1s_m']:.4f} m, "
                     f"{figures['frames_rpe_1s_deg']:.2f} deg")
    if figures["ate_rmse_unscaled_m"] is not None:
        lines.append(f"ATE RMSE {figures['ate_rmse_unscaled_m']:.4f} m after SE(3), scale {figures['scale']} by "
                     f"{figures['scale_by']}, sigma {100 * figures['scale_sigma']:.2g} %")
    return "\n".join(lines)
