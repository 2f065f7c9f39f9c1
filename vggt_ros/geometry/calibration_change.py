"""What is different in a new calibration of a camera, in words."""

from __future__ import annotations

from vggt_ros.geometry.camera import Camera


def difference(old: Camera, new: Camera) -> str:
    """Return in words what is different in a new calibration, such as `fx from 500 to 520 px`."""
    if (old.width, old.height) != (new.width, new.height):
        return f"{new.width}x{new.height} pixels instead of {old.width}x{old.height}"
    if old.model != new.model:
        return f"from the model {old.model} to {new.model}"
    names = {"fx": (0, 0), "fy": (1, 1), "cx": (0, 2), "cy": (1, 2)}
    size = {name: abs(new.intrinsics[at] - old.intrinsics[at]) for name, at in names.items()}
    name = max(size, key=lambda name: size[name])
    if size[name] < 0.05:
        return "in the distortion"
    return f"{name} from {old.intrinsics[names[name]]:.5g} to {new.intrinsics[names[name]]:.5g} px"
