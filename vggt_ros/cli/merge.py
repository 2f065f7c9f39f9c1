"""merge: saved maps of different days or robots become one map, where they see the same places."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from vggt_ros.arguments import add_settings, given_path
from vggt_ros.cli.interrupts import ends_in_order
from vggt_ros.config import Config
from vggt_ros.loops.merging import Merged, merge
from vggt_ros.mapping.dense.surface import Surface
from vggt_ros.settings import ConfigError
from vggt_ros.storage.map_folder import StorageError, check_replaceable, load_map, save_map
from vggt_ros.threads import single_threaded_blas


@ends_in_order(ConfigError, StorageError)
def main(args: list[str] | None = None, prog: str = "merge") -> int:
    """Merge the maps named on the command line."""
    parser = argparse.ArgumentParser(prog=prog, description="Joins saved maps where they see the same places.")
    parser.add_argument("maps", type=given_path, nargs="+", metavar="MAP",
                        help="folders of saved maps; the first one gives the frame")
    parser.add_argument("--output", type=given_path, required=True, metavar="MAP", help="folder of the merged map")
    add_settings(parser, "change a setting, such as map.voxel or loops.drift")
    options = parser.parse_args(args)
    single_threaded_blas()
    if len(options.maps) < 2:
        raise StorageError("merging takes at least two maps")
    folders = [path.resolve() for path in options.maps]
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise StorageError(f"{twice} is given twice")
    if options.output.resolve() in folders:
        raise StorageError(f"--output {options.output} is one of the maps that are merged, which are kept: name "
                           "another folder")
    config = Config().parse(options.set)
    check_replaceable(options.output)
    records = [load_map(path) for path in options.maps]
    with tqdm(unit="keyframe", desc="searching", disable=None, leave=False) as bar:
        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        merged = merge(records, _names(options.maps), config, progress)
    save(merged, options.output, config)
    print("\n".join(summary(merged)) + f"\nwritten to {options.output}")
    return 0


def save(merged: Merged, folder: Path, config: Config) -> None:
    """Save a merged map; raises StorageError."""
    solution, surface, map_world = merged.atlas.solution(), Surface(config.map), merged.record.map_world
    surface.update(solution, complete=True)
    save_map(folder, merged.record, surface.cloud(solution).transformed(map_world), map_world @ solution.map_camera,
             config)


def summary(merged: Merged) -> list[str]:
    """Return lines that name which maps were joined, which stay apart, and why."""
    lines = [f"{' + '.join(group)}: {'joined' if len(group) > 1 else 'stays apart'}" for group in merged.groups]
    return lines + [f"  {part.name}: {note}" for part in merged.parts for note in part.notes]


def _names(paths: list[Path]) -> list[str]:
    """Return the names of the maps' folders, or whole paths where two of them have the same name."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


if __name__ == "__main__":
    sys.exit(main())
