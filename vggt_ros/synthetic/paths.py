"""Camera paths: poses (n, 4, 4) `world_camera`, optical axes, in a world with z up."""

from __future__ import annotations

import numpy as np

from vggt_ros.geometry.poses import Array, pose


def look_at(position: Array, target: Array) -> Array:
    """Return the 4x4 pose of a level camera at `position` (3,) that looks at `target` (3,).

    Raises:
        ValueError: the target is straight above or below, or where the camera is.

    """
    forward = np.asarray(target, float) - position
    right = np.cross(forward, [0.0, 0.0, 1.0])
    if np.linalg.norm(right) < 1e-9:
        raise ValueError(f"a level camera at {position} cannot look at {target}")
    forward, right = forward / np.linalg.norm(forward), right / np.linalg.norm(right)
    return pose(np.column_stack([right, np.cross(forward, right), forward]), np.asarray(position, float))


def laps(count: int, laps: float = 2.0, radii: tuple[float, float] = (1.5, 1.1), height: float = 1.1,
         inward: float = 0.9, wave: float = 0.12) -> Array:
    """Return `count` poses on an ellipse around the origin that look across the room, always moving sideways.

    The speed is constant but for a soft start and stop; the camera rises and falls by `wave` meters three
    times a lap and the viewing direction leads the motion a little, so that no two views differ by a pure rotation.

    Args:
        count: number of poses.
        laps: number of laps; whole numbers end where they began.
        radii: of the ellipse along x and y, meters.
        height: of the camera over the floor, meters.
        inward: how far beyond the center the camera looks, in radii; 0 looks at the center.
        wave: amplitude of the vertical motion, meters.

    """
    progress = _soft(np.linspace(0, 1, count))
    # Equal steps of arc length, not of the angle.
    fine = np.linspace(0, 2 * np.pi * laps, max(2000, 20 * count))
    speed = np.hypot(radii[0] * np.sin(fine), radii[1] * np.cos(fine))
    length = np.concatenate([[0], np.cumsum((speed[1:] + speed[:-1]) / 2 * np.diff(fine))])
    angle = np.interp(progress * length[-1], length, fine)
    position = np.column_stack([radii[0] * np.cos(angle), radii[1] * np.sin(angle),
                                height + wave * np.sin(3 * angle)])
    view_angle = angle + np.pi - 0.25  # across the room, a little ahead
    target = np.column_stack([inward * radii[0] * np.cos(view_angle), inward * radii[1] * np.sin(view_angle),
                              0.75 * height + 0.15 * np.sin(2 * angle)])
    return np.array([look_at(p, t) for p, t in zip(position, target, strict=True)])


def orbit(count: int, radius: float = 1.2, height: float = 1.2, degrees: float = 60.0) -> Array:
    """Return `count` poses on an arc around the origin that look at its center: much parallax in few frames."""
    angle = np.radians(np.linspace(0, degrees, count))
    position = np.column_stack([radius * np.cos(angle), radius * np.sin(angle), np.full(count, height)])
    return np.array([look_at(p, np.array([0, 0, 0.5])) for p in position])


def drive(count: int, length: float = 20.0, height: float = 1.2, view_angle: float = 0.0) -> Array:
    """Return `count` poses on a straight line along x; `view_angle` degrees turns the view from forward to the left."""
    x = length * _soft(np.linspace(0, 1, count))
    direction = np.array([np.cos(np.radians(view_angle)), np.sin(np.radians(view_angle)), -0.05])
    return np.array([look_at(p, p + direction) for p in np.column_stack([x, 0 * x, 0 * x + height])])


def turn(count: int, degrees: float = 90.0, position: tuple[float, float, float] = (0.8, 0.6, 1.2)) -> Array:
    """Return `count` poses of a pure rotation to the left: no parallax at all, nothing to reconstruct."""
    angle = np.radians(np.linspace(0, degrees, count))
    center = np.array(position)
    return np.array([look_at(center, center + [np.cos(a), np.sin(a), -0.05]) for a in angle])


def _soft(t: Array, ramp: float = 0.03) -> Array:
    """Return progress in [0, 1] with speed rising and falling linearly over the first and last fraction `ramp`."""
    speed = np.minimum(np.minimum(t, 1 - t) / ramp, 1) + 1e-3
    progress = np.concatenate([[0], np.cumsum((speed[1:] + speed[:-1]) / 2 * np.diff(t))])
    return progress / progress[-1]
