"""The part of `check` that compares a window by VGGT with the truth of a rendered room, or with multiview."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vggt_ros.benchmarks.check.machine import GREEN, RED, YELLOW, Finding
from vggt_ros.config import Config
from vggt_ros.geometry.camera import Camera, Rectifier
from vggt_ros.geometry.poses import Array, inverse
from vggt_ros.reconstruction.base import ReconstructionRefused, Reconstructor, WindowGeometry
from vggt_ros.reconstruction.multiview.reconstructor import Multiview
from vggt_ros.reconstruction.vggt.comparison.recorded_run import pose_differences
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import Image
from vggt_ros.synthetic import orbit, pinhole, room
from vggt_ros.windows.keyframe import Keyframe, Window

_GOOD = (3.0, 10.0)
"""Rotation of pairs, degrees, and camera centers, percent of their extent, up to which two results agree."""
_COUNT = 8


def check_window(config: Config, vggt: Reconstructor | None, images: Path | None) -> Iterator[Finding]:
    """Solve a window by VGGT and by multiview, and compare them with each other and with the truth if it is known.

    Args:
        config: the settings.
        vggt: with its weights; None if they are not there.
        images: a folder of images, of which eight are used; None for a rendered room.

    """
    camera, rectified, pixels, truth = _rendered() if images is None else _recorded(images)
    solved: dict[str, WindowGeometry] = {}
    refused: dict[str, str] = {}
    for name, reconstructor in (("vggt", vggt), ("multiview", Multiview(config))):
        if reconstructor is None:
            refused[name] = "no weights"
            continue
        rectify = Rectifier(camera, reconstructor.image_size(camera), rectified)
        window = Window(0, tuple(Keyframe(i, i * 10**8, np.ascontiguousarray(rectify(image)), rectify.intrinsics,
                                          camera.calibrated) for i, image in enumerate(pixels)))
        try:
            solved[name] = reconstructor.reconstruct(window)
        except ReconstructionRefused as refusal:
            refused[name] = str(refusal)
    text: list[str] = []
    figures: dict[str, object] = {}
    level = GREEN
    for name, reference in (("vggt", "truth"), ("multiview", "truth"), ("vggt", "multiview")):
        pair = _pair(solved, name, reference, truth)
        if pair is not None:
            found = pose_differences(*pair)
            figures[f"{name} against {reference}"] = found
            text.append(f"{name} against {reference}: {found['rotations_deg']:.2f} deg, centers "
                        f"{found['centers_percent']:.1f} %")
            good = found["rotations_deg"] <= _GOOD[0] and found["centers_percent"] <= _GOOD[1]
            level = level if good else RED if name == "vggt" else YELLOW
    what = "rendered room" if images is None else f"{len(pixels)} images of {images}"
    lines = "; ".join([*text, *(f"{name}: {reason}" for name, reason in refused.items())])
    cure = ""
    if "vggt" in refused:
        level = YELLOW if vggt is None else RED
        cure = "see the check of the weights" if vggt is None else refused["vggt"]
    elif level != GREEN:
        cure = "the weights may be others than published, or images hard: run `parity --recorded`, and try " \
            "vggt.dtype: float32"
    elif not text:
        level, cure = YELLOW, "nothing to compare with: other images may do"
    yield Finding("window", level, f"{what}: {lines}", cure, figures, checked="vggt" in solved)


def _pair(solved: dict[str, WindowGeometry], name: str, reference: str,
          truth: Array | None) -> tuple[Array, Array] | None:
    """Return the poses `camera_world` of the images that both results have; None if one is missing."""
    if name not in solved or (reference not in solved and (reference != "truth" or truth is None)):
        return None
    ours = solved[name]
    theirs = dict(enumerate(truth)) if reference == "truth" and truth is not None else \
        dict(zip(solved[reference].keyframe_ids, solved[reference].window_camera))
    rows = [row for row, keyframe in enumerate(ours.keyframe_ids) if keyframe in theirs]
    if len(rows) < 3:
        return None
    return (np.array([inverse(ours.window_camera[row]) for row in rows]),
            np.array([inverse(theirs[ours.keyframe_ids[row]]) for row in rows]))


def _rendered(width: int = 640, height: int = 480) -> tuple[Camera, bool, list[Image], Array]:
    """Return a camera, whether images are rectified, eight images of a room, and their poses `world_camera`."""
    size = (width, height)
    intrinsics, poses = pinhole(*size), orbit(_COUNT, degrees=50.0)
    scene = room(texel=0.008)
    images = [scene.render(pose, intrinsics, size)[0] for pose in poses]
    return Camera(*size, intrinsics), True, images, poses


def _recorded(folder: Path) -> tuple[Camera, bool, list[Image], None]:
    """Return the same of eight images, evenly spaced, of a recording, whose poses are not used."""
    sequence = open_sequence(folder)
    rows = set(np.linspace(0, len(sequence) - 1, _COUNT).round().astype(int).tolist())
    images = [image for row, (_, image) in enumerate(sequence) if row in rows]
    return sequence.camera, sequence.rectified, images, None
