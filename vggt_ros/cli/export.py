"""export: a saved map in the formats of other programs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vggt_ros.cli.interrupts import ends_in_order
from vggt_ros.config import Config
from vggt_ros.mapping.export import FORMATS, Export, ExportError
from vggt_ros.settings import ConfigError
from vggt_ros.storage.map_folder import StorageError, load_map


@ends_in_order
def main(args: list[str] | None = None, prog: str = "export") -> int:
    """Export the map named on the command line."""
    parser = argparse.ArgumentParser(prog=prog, description="Writes a saved map in the formats of other programs.")
    parser.add_argument("map", type=Path, help="folder of a saved map")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder for the files")
    parser.add_argument("--format", action="append", choices=FORMATS, default=[],
                        help="may be given more than once (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="change a setting, such as map.voxel or grid.max_height")
    options = parser.parse_args(args)
    try:
        config = Config().parse(options.set)
        export = Export(load_map(options.map.expanduser()), config)
        folder = options.output.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.format or FORMATS:
            print(f"{name}: " + ", ".join(str(path) for path in getattr(export, name)(folder)))
    except (ConfigError, ExportError, StorageError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
