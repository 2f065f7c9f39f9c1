"""Writes a sequence as a folder of images, for programs that read files: stamps, calibration and true poses beside."""

from __future__ import annotations

from pathlib import Path

from vggt_ros.sequences.sequence import Sequence
from vggt_ros.storage.files import format_stamp, write_picture, write_trajectory


def write_folder(sequence: Sequence, folder: Path) -> None:
    """Write a sequence as a new folder with `rgb.txt`, `calibration.txt` and, if it has true poses, `groundtruth.txt`.

    Images are PNG, so that they are the same to the bit.
    """
    (folder / "rgb").mkdir(parents=True)
    lines = ["# timestamp filename"]
    for number, (stamp, image) in enumerate(sequence):
        name = f"rgb/{number:06d}.png"
        write_picture(folder / name, image, png_compression=1)
        lines.append(f"{format_stamp(stamp)} {name}")
    (folder / "rgb.txt").write_text("\n".join(lines) + "\n")
    matrix = sequence.camera.intrinsics
    values = (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], *sequence.camera.distortion)
    (folder / "calibration.txt").write_text(" ".join(f"{value:.9f}" for value in values) + "\n")
    if sequence.truth is not None:
        write_trajectory(folder / "groundtruth.txt", *sequence.truth)
