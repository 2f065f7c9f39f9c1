"""Photos of one camera without order in time: reconstructed in one window, or in several that are fused.

All photos are keyframes. Their windows go through `Slam.step` as those of a video do: alignment by shared keyframes,
the pose graph, loops between windows that see the same. Photos that got no pose are tried again, together with those
that look like them and have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Rectifier
from vggt_ros.geometry.poses import Array
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.replay.photo_windows import PhotoWindows, are_in_order, similarity_order
from vggt_ros.sequences.encodings import ImageError
from vggt_ros.sequences.image_files import ImageFiles
from vggt_ros.sequences.image_list import BAG_SUFFIXES, VIDEOS, find_images
from vggt_ros.sequences.intake import Intake
from vggt_ros.sequences.sequence import Omitted, SequenceError
from vggt_ros.slam import Slam
from vggt_ros.windows.keyframe import Keyframe, overlapping_windows
from vggt_ros.windows.solution import MapKeyframe

_VIDEO = "the images of a video, since each continues the one before; `replay` needs less time for them"


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo that was reconstructed.

    Attributes:
        path: of its file.
        image: RGB (H, W, 3), as the reconstructor got it.
        map_camera: pose 4x4 in the frame and unit of the first photo's submap.
        keyframe: its depth, confidence and intrinsics at the size of the depth.
        scale: map units per unit of `keyframe.depth`.

    """

    path: Path
    image: NDArray[np.uint8]
    map_camera: Array
    keyframe: MapKeyframe
    scale: float

    def depth(self) -> NDArray[np.float32]:
        """Return the depth (h, w) in map units, NaN where unknown."""
        return self.keyframe.depth.astype(np.float32) * np.float32(self.scale)


@dataclass(frozen=True, eq=False)
class Collection:
    """What became of photos.

    Attributes:
        slam: with the map.
        rectifier: from the files, as they are shown, to `Photo.image`.
        photos: those that are in its largest submap.
        missing: files of the others.
        refusals: why windows were refused.
        assumptions: one line for each thing that was assumed.
        omitted: photos that cannot be used; they are among the missing ones.

    """

    slam: Slam
    rectifier: Rectifier
    photos: list[Photo]
    missing: list[Path]
    refusals: list[str]
    assumptions: tuple[str, ...]
    omitted: Omitted


def find_photos(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Return the image files named, and those in folders named, each once, and lines on what is left out.

    Raises:
        SequenceError: there is none, or one is not there.

    """
    found: list[Path] = []
    lines: list[str] = []
    for path in paths:
        if path.is_dir():
            files, left_out = find_images(path)
            found += files
            lines += left_out
        elif path.suffix.lower() in VIDEOS or path.suffix.lower() in BAG_SUFFIXES:
            raise SequenceError(f"{path}: not a photo but a recording, which `replay` takes")
        elif path.is_file():
            found.append(path)
        else:
            raise SequenceError(f"{path}: there is no such image or folder")
    if not found:
        raise SequenceError("no images are named")
    once = list({file.resolve(): file for file in found}.values())
    if len(once) < len(found):
        lines.append(f"{len(found) - len(once)} images are named more than once; each is used once")
    return once, lines


def reconstruct_photos(files: Sequence[Path], reconstructor: Reconstructor, config: Config,
                       at_once: int, by_similarity: bool = True, progress: bool = False,
                       calibration: Path | None = None) -> Collection:
    """Reconstruct photos of one camera.

    Args:
        files: of the photos.
        reconstructor: of the windows.
        config: settings; `camera.fov` is assumed where there is no calibration beside the photos, and the
            reconstructor does not find the focal length.
        at_once: most photos of a window, at least two; a third of them is shared with the window before.
        by_similarity: form windows of photos that look alike; else in the order of `files`. If that is the order of a
            video, corners are followed from each into the next, and the photos of a window are not matched each with
            all others.
        progress: show a bar.
        calibration: file with the calibration; None: one beside the photos.

    Raises:
        SequenceError: none of the files can be used, or the calibration cannot.

    """
    folders = {file.parent for file in files}
    images = ImageFiles(list(files), folders.pop() if len(folders) == 1 else None, config.camera.fov, calibration)
    rectify = Rectifier(images.camera, reconstructor.image_size(images.camera))
    keyframes: list[Keyframe] = []
    intake, omitted = Intake(), Omitted()
    used: list[Path] = []
    unused: list[Path] = []
    for file in tqdm(files, desc="reading", unit="image", disable=not progress):
        try:
            image = rectify(images.read(file, intake))
        except ImageError as error:
            omitted.add(str(file), str(error))
            unused.append(file)
            continue
        keyframes.append(Keyframe(len(used), 0, image, rectify.intrinsics, images.camera.calibrated))
        used.append(file)
    if not keyframes:
        raise SequenceError(f"none of the photos can be used: {'; '.join(omitted.lines)}")
    slam = Slam(config, reconstructor)
    windows = PhotoWindows(slam, keyframes)
    ordered = [keyframes[row] for row in similarity_order(windows.similar)] if by_similarity else keyframes
    in_order = not by_similarity and are_in_order(keyframes)
    parts = overlapping_windows(ordered, at_once, max(1, at_once // 3))
    for part in tqdm(parts, desc="windows", unit="window", disable=not progress):
        windows.solve(part.ids, part.shared, not in_order)
    windows.retry(at_once, progress)
    solution, poses = slam.solution, windows.rows_of_solution()
    photos = [Photo(used[row], keyframes[row].image, solution.map_camera[at], solution.keyframes[windows.ids[row]],
                    float(solution.scale[at])) for row, at in sorted(poses.items())]
    missing = [file for row, file in enumerate(used) if row not in poses]
    return Collection(slam, rectify, photos, missing + unused, windows.refusals(set(poses)),
                      (*images.assumptions, *([_VIDEO] if in_order else [])), omitted)
