"""Calibrations of one camera from files: our own, and those that other calibration tools write.

ROS (camera_calibration, camera_info_manager), Kalibr and EuRoC, ORB-SLAM, OpenCV's FileStorage as YAML, COLMAP, and
KITTI beside its images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.calibration import CameraError, doubt, known_distortion
from vggt_ros.geometry.camera import Camera, resize_intrinsics
from vggt_ros.sequences import kitti
from vggt_ros.sequences.intake import check_camera
from vggt_ros.sequences.sequence import SequenceError
from vggt_ros.storage.files import read_lines

NAMES = ("calibration.txt", "calibration.yaml", "calibration.yml", "camera.yaml", "camera_info.yaml", "ost.yaml",
         "sensor.yaml", "camchain.yaml", "cameras.txt")
"""Files in the folder of images that are taken for their calibration, the first that is there."""
NONE = Path("none")
"""In place of a file: no calibration, whatever there is."""
_EXPECTED = ("`fx fy cx cy [k1 k2 p1 p2 [k3]]`, or a file of ROS (camera_info), Kalibr, EuRoC, ORB-SLAM, OpenCV (YAML) "
             "or COLMAP (cameras.txt), or --calibration none")
_SAME_ASPECT = 0.01
"""Relative difference of aspect ratios up to which images are taken for resized ones."""
_COLMAP = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "SIMPLE_RADIAL_FISHEYE",
           "RADIAL_FISHEYE", "OPENCV_FISHEYE")
"""Models of COLMAP that are known here."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Intrinsics (3, 3) and distortion, as in `Camera`, and the (width, height) that they are for; 0, 0 if unknown."""

    path: Path
    intrinsics: NDArray[np.float64]
    model: str = ""
    distortion: tuple[float, ...] = ()
    size: tuple[int, int] = (0, 0)

    def camera(self, size: tuple[int, int]) -> Camera:
        """Return the camera of images of this (width, height), which may be resized; raises SequenceError."""
        try:
            matrix = self.intrinsics
            if self.size != (0, 0):
                x, y = size[0] / self.size[0], size[1] / self.size[1]
                if abs(x / y - 1) > _SAME_ASPECT:
                    raise CameraError(f"it is for images of {self.size[0]}x{self.size[1]}")
                matrix = resize_intrinsics(matrix, x, y)
            camera = Camera(*size, matrix, *known_distortion(self.model, self.distortion)[::-1])
            check_camera(camera)
        except CameraError as error:
            raise SequenceError(f"{self.path}: {error}; expected is {_EXPECTED}, for images of {size[0]}x{size[1]}") \
                from error
        return camera

    def assumptions(self, camera: Camera) -> tuple[str, ...]:
        """Return what is assumed where it is the calibration of a camera, as `camera` returns it; at most one line."""
        size, found = (camera.width, camera.height), []
        if self.path.name != NAMES[0]:
            found.append("")
        if self.size not in ((0, 0), size):
            found.append(f" for {self.size[0]}x{self.size[1]}, as if images of {size[0]}x{size[1]} were resized")
        if odd := doubt(camera.intrinsics, size):
            found.append(f", although {odd}")
        return (f"the calibration of {self.path}{''.join(found)}",) if found else ()


def find_calibration(given: Path | None, folder: Path | None = None) -> Calibration | None:
    """Return the calibration in a file, by default in one in the `folder` of images; None if there is none.

    If `none` is given, there is none. Raises as `read_calibration` does.
    """
    path = given or (None if folder is None else _beside(folder))
    number = None if folder is None else kitti.camera_number(folder)
    if path is None and folder is not None and number is not None and (folder.resolve().parent / "calib.txt").exists():
        path = folder.resolve().parent / "calib.txt"
        return Calibration(path, kitti.projection(path, number)[:, :3])
    return None if path is None or path == NONE else read_calibration(path)


def _beside(folder: Path) -> Path | None:
    """Return the calibration in a folder of images, or in that above EuRoC's `data`; None if there is none."""
    folders = (folder, folder.parent) if folder.name == "data" else (folder,)
    return next((path for place in folders for name in NAMES if (path := place / name).exists()), None)


def read_calibration(path: Path) -> Calibration:
    """Return the calibration in a file of one of the formats above.

    Raises:
        SequenceError: the file has another format, several cameras, or a camera model that is not known.
        FileError: it is missing, or not text.

    """
    lines = read_lines(path)
    text = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    try:
        if path.name == "cameras.txt" or any(line.split()[1:2] and line.split()[1] in _COLMAP for line in text[:1]):
            return _colmap(path, text)
        if re.fullmatch(r"[\s\d.,eE+-]+", " ".join(text)):
            values = [float(word) for word in " ".join(text).replace(",", " ").split()]
            if len(values) < 4:
                raise ValueError(f"it has {len(values)} numbers")
            return Calibration(path, _matrix(values[:4]), "", tuple(values[4:]))
        return _yaml(path, lines)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise SequenceError(f"{path}: expected {_EXPECTED} ({reason})") from error


def _matrix(values: Iterable[float]) -> NDArray[np.float64]:
    fx, fy, cx, cy = values
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def _colmap(path: Path, lines: list[str]) -> Calibration:
    """Read COLMAP's `CAMERA_ID MODEL WIDTH HEIGHT PARAMS`, with pixel centers at 0.5."""
    if len(lines) != 1:
        raise ValueError(f"it has {len(lines)} cameras; leave the line of one")
    _, model, width, height, *words = lines[0].split()
    if model not in _COLMAP:
        raise ValueError(f"camera model {model}; known are {', '.join(_COLMAP)}")
    values = [float(word) for word in words]
    if model.startswith(("SIMPLE", "RADIAL")):  # one focal length
        values.insert(0, values[0])
    matrix, distortion = _matrix(values[:4]), values[4:]
    matrix[:2, 2] -= 0.5
    fisheye = model.endswith("FISHEYE")
    distortion += [0.0] * (4 - len(distortion)) if distortion else []
    kind = "equidistant" if fisheye else "rational_polynomial" if len(distortion) == 8 else "plumb_bob"
    return Calibration(path, matrix, kind, tuple(distortion), (int(width), int(height)))


def _yaml(path: Path, lines: list[str]) -> Calibration:
    """Read a calibration in YAML, also as OpenCV's FileStorage writes it."""
    import yaml

    text = "\n".join(line for line in lines if not line.startswith("%YAML")).replace("!!opencv-matrix", "")
    try:
        found = next(yaml.safe_load_all(text), None)  # `ros2 topic echo` ends it by ---
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())[:120]}") from error
    if not isinstance(found, Mapping):
        raise ValueError("no keys")
    if "cam0" in found and isinstance(found["cam0"], Mapping):
        found = found["cam0"]
    if "intrinsics" in found:
        return _kalibr(path, found)
    orb = next((name for name in ("Camera", "Camera1") if f"{name}.fx" in found), "")
    return _orb_slam(path, found, orb) if orb else _ros_or_opencv(path, found)


def _kalibr(path: Path, found: Mapping[str, Any]) -> Calibration:
    """Read a camera of Kalibr's camchain, or EuRoC's sensor.yaml."""
    if (projection := found.get("camera_model", "pinhole")) != "pinhole":
        raise ValueError(f"camera_model {projection}; known is pinhole")
    model = str(found.get("distortion_model", "none"))
    distortion = found.get("distortion_coeffs", found.get("distortion_coefficients", ())) if model != "none" else ()
    return Calibration(path, _matrix(map(float, found["intrinsics"])), model, tuple(map(float, distortion)),
                       _size(*found.get("resolution", (0, 0))))


def _orb_slam(path: Path, found: Mapping[str, Any], name: str) -> Calibration:
    """Read ORB-SLAM's settings of its first camera."""
    kind = str(found.get("Camera.type", "PinHole"))
    if kind not in ("PinHole", "Rectified", "KannalaBrandt8"):
        raise ValueError(f"Camera.type {kind}; known are PinHole, Rectified and KannalaBrandt8")
    fisheye = kind == "KannalaBrandt8"
    keys = [f"{name}.{key}" for key in (("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3"))]
    return Calibration(
        path, _matrix(float(found[f"{name}.{key}"]) for key in ("fx", "fy", "cx", "cy")),
        "equidistant" if fisheye else "plumb_bob", tuple(float(found.get(key, 0)) for key in keys),
        _size(found.get("Camera.width", 0), found.get("Camera.height", 0)))


def _ros_or_opencv(path: Path, found: Mapping[str, Any]) -> Calibration:
    """Read what ROS's camera_calibration writes, or a FileStorage of OpenCV with the usual names."""
    named = {str(key).lower(): value for key, value in found.items()}

    def first(*names: str) -> Any:
        return next((named[name] for name in names if name in named), None)

    matrix = first("camera_matrix", "k", "mtx", "intrinsic_matrix")
    if matrix is None:
        raise ValueError(f"no camera_matrix; it has {', '.join(map(str, list(found)[:8]))}")
    distortion = first("distortion_coefficients", "d", "dist", "dist_coeffs", "distortion")
    values = _values(matrix)
    if len(values) != 9:
        raise ValueError(f"{len(values)} numbers in the camera matrix, not 9")
    model = first("distortion_model") or ("equidistant" if first("fisheye_model") else "")
    return Calibration(path, np.array(values).reshape(3, 3), str(model), tuple(_values(distortion)),
                       _size(first("image_width", "width") or 0, first("image_height", "height") or 0))


def _values(matrix: Any) -> list[float]:
    """Return the numbers of a matrix: a mapping with `data`, or lists."""
    data = matrix.get("data", []) if isinstance(matrix, Mapping) else matrix
    return [] if data is None else np.array(data, np.float64).ravel().tolist()


def _size(width: Any, height: Any) -> tuple[int, int]:
    size = int(width), int(height)
    if min(size) <= 0:
        return 0, 0
    return size
