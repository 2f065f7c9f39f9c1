"""export: a saved map in the formats of other programs."""

from __future__ import annotations

import argparse
import sys

from vggt_ros.arguments import add_settings, given_path
from vggt_ros.cli.interrupts import ends_in_order
from vggt_ros.config import Config
from vggt_ros.mapping.files.export import FORMATS, Export, ExportError
from vggt_ros.settings import ConfigError
from vggt_ros.storage.files import FileError, output_folder
from vggt_ros.storage.map_folder import StorageError, load_map


@ends_in_order(ConfigError, ExportError, FileError, StorageError, OSError)
def main(args: list[str] | None = None, prog: str = "export") -> int:
    """Export the map named on the command line."""
    parser = argparse.ArgumentParser(prog=prog, description="Writes a saved map in the formats of other programs.")
    parser.add_argument("map", type=given_path, help="folder of a saved map")
    parser.add_argument("--output", type=given_path, required=True, metavar="FOLDER", help="folder for the files")
    parser.add_argument("--format", action="append", choices=FORMATS, default=[],
                        help="may be given more than once (default: all)")
    parser.add_argument("--submap", type=int, default=1, metavar="N", help="the submap that is written: 1, the largest "
                        "(default), 2, ...; their relative poses are not known")
    add_settings(parser, "change a setting, such as map.voxel or grid.max_height")
    options = parser.parse_args(args)
    config = Config().parse(options.set)
    record = load_map(options.map)
    folder = output_folder(options.output)
    export = Export(record, config, options.submap)
    if len(export.sizes) > 1:
        print(f"export: submap {options.submap} of {len(export.sizes)}, which have "
              f"{', '.join(map(str, export.sizes))} keyframes; --submap N writes another one", file=sys.stderr)
    for name in options.format or FORMATS:
        print(f"{name}: " + ", ".join(str(path) for path in getattr(export, name)(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
