"""benchmark merge: a recording cut into parts that are mapped apart and merged, against the map made in one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.arguments import add_settings
from vggt_ros.benchmarks.recordings import load
from vggt_ros.config import Config
from vggt_ros.evaluation.errors import accuracy
from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import BODY_OPTICAL
from vggt_ros.loops.merging import merge
from vggt_ros.replay.run import Run, run
from vggt_ros.sequences.sequence import Image, Truth
from vggt_ros.sequences.sequence import Sequence as Recording


class Cut:
    """The images `begin` to `end` of a recording."""

    def __init__(self, recording: Recording, begin: int, end: int) -> None:
        """Take the images before `end`, from `begin` on."""
        self._recording, self._begin, self._end = recording, begin, min(end, len(recording))
        self.name, self.rectified = f"{recording.name} {begin} to {self._end - 1}", recording.rectified
        self.assumptions, self.omitted = recording.assumptions, recording.omitted

    @property
    def truth(self) -> Truth | None:
        """The ground truth of the whole recording."""
        return self._recording.truth

    @property
    def camera(self) -> Camera:
        """The camera of the recording."""
        return self._recording.camera

    def __len__(self) -> int:
        """Return the number of images."""
        return self._end - self._begin

    def __iter__(self) -> Iterator[tuple[int, Image]]:
        """Yield stamps and images."""
        return islice(iter(self._recording), self._begin, self._end)

    def depths(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the depth images of the recording."""
        return self._recording.depths()


def merging(pieces: Sequence[str], config: Config | None = None) -> dict[str, Any]:
    """Print a table of the errors of maps made in one and of merged maps; return all figures by recording.

    Args:
        pieces: name of a recording, the number of parts that it is cut into, and how many images neighboring parts
            have in common, as `tum_fr1_xyz:3` or `kitti07_first160:2:30`; or several recordings, as
            `kitti05_bends+kitti07_first160`, whose maps are to stay apart.
        config: the settings.

    Raises:
        SequenceError: a recording is not there.

    """
    config = config or Config()
    results: dict[str, Any] = {}
    print(f"{'recording':<34} {'maps':>5} {'joined':>7} {'ATE in one':>11} {'of parts':>9} {'merged':>8} "
          f"{'ratio':>6} {'keyframes':>10}", flush=True)
    for piece in pieces:
        name, *numbers = piece.split(":")
        recordings = [load(one) for one in name.split("+")]
        cuts: list[Any] = recordings if len(recordings) > 1 else _cut(recordings[0], *map(int, numbers))
        maps = [run(one, config, progress=sys.stderr.isatty()) for one in cuts]
        whole = run(load(name), config, progress=sys.stderr.isatty()) if len(recordings) == 1 else None
        merged = merge([one.slam.record(BODY_OPTICAL) for one in maps], [one.name for one in cuts], config)
        solution, one_piece = merged.atlas.solution(), whole.accuracy() if whole else None
        rows = solution.submaps == solution.largest_submap
        truth = recordings[0].truth
        together = accuracy(solution.stamps[rows], solution.map_camera[rows], *truth) if whole and truth else None
        figures: dict[str, Any] = {"maps": len(merged.parts), "groups": merged.groups,
                   "notes": {part.name: part.notes for part in merged.parts},
                   "ate_in_one_m": one_piece and one_piece.ate_rmse,
                   "ate_of_parts_m": _pooled(maps) if whole else None, "ate_merged_m": together and together.ate_rmse,
                   "ratio": together.ate_rmse / one_piece.ate_rmse if together and one_piece else None,
                   "keyframes_joined": int(rows.sum()), "keyframes": len(solution)}
        results[piece] = figures
        in_one, alone, joined = (_text(figures[f"ate_{key}_m"], 4) for key in ("in_one", "of_parts", "merged"))
        print(f"{piece:<34} {figures['maps']:>5} {len(merged.groups[0]):>7} {in_one:>11} {alone:>9} {joined:>8} "
              f"{_text(figures['ratio'], 2):>6} {figures['keyframes_joined']:>4} of {len(solution):>3}", flush=True)
        for part in merged.parts:
            for note in part.notes:
                print(f"  {part.name}: {note}", flush=True)
    return results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark merge`."""
    parser.add_argument("--recordings", nargs="+", default=["tum_fr1_xyz:3", "hololens_dvmvs_000:2"],
                        metavar="NAME:PARTS:COMMON", help="in VGGT_ROS_DATA, into how many parts each is cut, and how "
                        "many images neighbors have in common (0 if left out); NAME+NAME: different recordings, whose "
                        "maps must stay apart")
    add_settings(parser)
    parser.set_defaults(run=lambda options: (merging(options.recordings, Config().parse(options.set)), True))


def _pooled(maps: Sequence[Run]) -> float | None:
    """Return the errors of maps that are aligned each by itself, pooled over their keyframes: what merging begins with.

    None without ground truth.
    """
    errors = [(one.accuracy(), len(one.slam.solution)) for one in maps]
    known = [(error.ate_rmse, count) for error, count in errors if error is not None]
    return float(np.sqrt(np.average([error**2 for error, _ in known], weights=[count for _, count in known]))) \
        if known else None


def _cut(recording: Recording, count: int = 2, common: int = 0) -> list[Any]:
    """Return a recording in `count` parts of equal length, neighbors with so many images in `common`."""
    ends = [round(len(recording) * part / count) for part in range(count + 1)]
    return [Cut(recording, max(begin - common // 2, 0), end + common - common // 2) for begin, end in pairwise(ends)]


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
