"""Meshes as files: binary PLY, and GLB, the binary form of glTF 2.0."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_FLOAT, _UINT, _USHORT = 5126, 5125, 5123  # component types of glTF
_Z_UP = [-(0.5**0.5), 0.0, 0.0, 0.5**0.5]
"""Quaternion x y z w that turns z up, as in `map`, to y up, as in glTF."""


def write_mesh_ply(path: Path, vertices: NDArray[np.float32], normals: NDArray[np.float32], colors: NDArray[np.uint8],
                   faces: NDArray[np.int32]) -> None:
    """Write a mesh: vertices, normals (n, 3), colors RGB (n, 3), and faces (m, 3) of indices of vertices."""
    table = np.empty(len(vertices), [("position", "<f4", 3), ("normal", "<f4", 3), ("color", "u1", 3)])
    table["position"], table["normal"], table["color"] = vertices, normals, colors
    rows = np.empty(len(faces), [("count", "u1"), ("vertices", "<i4", 3)])
    rows["count"], rows["vertices"] = 3, faces
    names = [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    names += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}", *names,
              f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    path.write_bytes("\n".join(header).encode() + table.tobytes() + rows.tobytes())


def write_glb(path: Path, vertices: NDArray[np.float32], normals: NDArray[np.float32], colors: NDArray[np.uint8],
              faces: NDArray[np.int32]) -> None:
    """Write a mesh, as `write_mesh_ply` takes it, as glTF 2.0.

    Colors are of images, which have their light in them: they are written as linear values, as glTF has them, with
    the extension KHR_materials_unlit. The vertices have the axes of `map`; the node turns them to y up.
    """
    linear = colors.astype(np.float64) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1 (sRGB)
    rgba = np.concatenate([np.rint(65535 * linear), np.full((len(colors), 1), 65535)], axis=1).astype("<u2")
    arrays = ((vertices.astype("<f4"), _FLOAT, "VEC3", 34962), (normals.astype("<f4"), _FLOAT, "VEC3", 34962),
              (rgba, _USHORT, "VEC4", 34962), (faces.astype("<u4").reshape(-1, 1), _UINT, "SCALAR", 34963))
    data, views, accessors = b"", [], []
    for index, (array, component, kind, target) in enumerate(arrays):
        content = array.tobytes()
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": len(content), "target": target})
        accessors.append({"bufferView": index, "componentType": component, "count": len(array), "type": kind,
                          **({"normalized": True} if component == _USHORT else {})})
        data += content + b"\0" * (-len(content) % 4)
    accessors[0] |= {"min": vertices.min(0).tolist(), "max": vertices.max(0).tolist()}
    scene = {
        "asset": {"version": "2.0", "generator": "vggt_ros"}, "scene": 0, "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "map", "rotation": _Z_UP}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}, "indices": 3,
                                    "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1}, "doubleSided": True,
                       "extensions": {"KHR_materials_unlit": {}}}],
        "extensionsUsed": ["KHR_materials_unlit"], "accessors": accessors, "bufferViews": views,
        "buffers": [{"byteLength": len(data)}]}
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(data))
                     + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data)
