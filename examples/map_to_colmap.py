#!/usr/bin/env python3
"""A saved map as a COLMAP model, for Gaussian splatting or nerfstudio. Usage: map_to_colmap.py MAP FOLDER."""

import sys
from pathlib import Path

from vggt_ros import Config
from vggt_ros.mapping.files.export import Export
from vggt_ros.storage.map_folder import load_map

record = load_map(Path(sys.argv[1]))
folder = Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
print(f"{len(record)} keyframes, scale {record.scale_state}")
print("\n".join(map(str, Export(record, Config()).colmap(folder))))
