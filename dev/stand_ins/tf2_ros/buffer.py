"""The frame tree over time with the semantics of tf2's BufferCore: interpolation, no extrapolation, timeouts."""

from __future__ import annotations

import bisect
import threading
import time as wall
from dataclasses import dataclass, field

import numpy as np
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray
from rclpy.clock import Clock, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from tf2_ros.exceptions import (
    ConnectivityException,
    ExtrapolationException,
    InvalidArgumentException,
    LookupException,
    TransformException,
)

Array = NDArray[np.float64]
Pose = tuple[Array, Array]
"""Translation (3,) and unit quaternion x y z w (4,), parent <- child."""


@dataclass
class _Link:
    """The transforms of one child frame: its parent, and its poses in the parent over time."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)

    def at(self, stamp: int, child: str) -> Pose:
        """Return the pose at `stamp` nanoseconds; raises ExtrapolationException outside of the known interval."""
        if self.static:
            return self.poses[0]
        if not self.stamps[0] <= stamp <= self.stamps[-1]:
            known = f"[{self.stamps[0] / 1e9:.6f}, {self.stamps[-1] / 1e9:.6f}]"
            raise ExtrapolationException(f"Lookup would require extrapolation: requested time {stamp / 1e9:.6f} but "
                                         f"{self.parent} -> {child} is known in {known}")
        right = bisect.bisect_left(self.stamps, stamp)
        if self.stamps[right] == stamp:
            return self.poses[right]
        before, after = self.stamps[right - 1], self.stamps[right]
        return _interpolate(self.poses[right - 1], self.poses[right], (stamp - before) / (after - before))


class Buffer:
    """Stores transforms for a limited time, and looks up the pose of one frame in another at a given time."""

    def __init__(self, cache_time: Duration | None = None, node: Node | None = None) -> None:
        """Keep transforms for `cache_time` (10 s if None); a backward jump of the clock of `node` clears the buffer."""
        self._cache = 10_000_000_000 if cache_time is None else cache_time.nanoseconds
        self._links: dict[str, _Link] = {}
        self._lock = threading.RLock()
        self.clock = Clock() if node is None else node.get_clock()
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-1), on_clock_change=True)
        self.jump_handle = self.clock.create_jump_callback(threshold, post_callback=self.time_jump_callback)

    def time_jump_callback(self, time_jump: TimeJump) -> None:
        """Clear the buffer when time jumps back."""
        self.clear()

    def clear(self) -> None:
        """Clear all dynamic transforms; static ones are kept."""
        with self._lock:
            self._links = {child: link for child, link in self._links.items() if link.static}

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Insert a dynamic transform; as in tf2, invalid ones (no name, NaN, zero quaternion, old) are ignored."""
        self._insert(transform, static=False)

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Insert a static transform."""
        self._insert(transform, static=True)

    def _insert(self, transform: TransformStamped, static: bool) -> None:
        parent, child = transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")
        p, q = transform.transform.translation, transform.transform.rotation
        pose = np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w])
        if not parent or not child or parent == child or not np.isfinite(np.concatenate(pose)).all():
            return
        if abs(pose[1] @ pose[1] - 1.0) > 1e-2:
            return
        stamp = transform.header.stamp.sec * 1_000_000_000 + transform.header.stamp.nanosec
        with self._lock:
            link = self._links.get(child)
            if link is None or link.parent != parent or link.static != static or static:
                link = self._links[child] = _Link(parent, static)
            if link.stamps and stamp < link.stamps[-1] - self._cache:
                return
            position = bisect.bisect_left(link.stamps, stamp)
            same = position < len(link.stamps) and link.stamps[position] == stamp
            link.stamps[position:position + same] = [stamp]
            link.poses[position:position + same] = [pose]
            expired = bisect.bisect_left(link.stamps, link.stamps[-1] - self._cache)
            del link.stamps[:expired], link.poses[:expired]

    def can_transform(self, target_frame: str, source_frame: str, time: Time, timeout: Duration = Duration(),
                      return_debug_tuple: bool = False) -> bool | tuple[bool, str]:
        """Return whether a lookup would succeed, waiting up to `timeout` of wall time for it."""
        deadline = wall.monotonic() + timeout.nanoseconds / 1e9
        while True:
            try:
                self._lookup(target_frame, source_frame, time.nanoseconds)
                return (True, "") if return_debug_tuple else True
            except TransformException as error:
                if wall.monotonic() >= deadline:
                    return (False, str(error)) if return_debug_tuple else False
            wall.sleep(0.02)

    def lookup_transform(self, target_frame: str, source_frame: str, time: Time,
                         timeout: Duration = Duration()) -> TransformStamped:
        """Return the pose of `source_frame` in `target_frame` at `time`; time 0 is the newest common one.

        Raises:
            LookupException: a frame is not known.
            ConnectivityException: no chain of transforms connects them.
            ExtrapolationException: the chain is not known at this time.
            InvalidArgumentException: a name is empty or starts with a slash.

        """
        self.can_transform(target_frame, source_frame, time, timeout)
        (translation, rotation), stamp = self._lookup(target_frame, source_frame, time.nanoseconds)
        message = TransformStamped(child_frame_id=source_frame)
        message.header.frame_id = target_frame
        message.header.stamp = Time(nanoseconds=stamp).to_msg()
        p, q = message.transform.translation, message.transform.rotation
        p.x, p.y, p.z = (float(value) for value in translation)
        q.x, q.y, q.z, q.w = (float(value) for value in rotation)
        return message

    def _lookup(self, target: str, source: str, stamp: int) -> tuple[Pose, int]:
        for frame, role in ((target, "target_frame"), (source, "source_frame")):
            if not frame or frame.startswith("/"):
                raise InvalidArgumentException(f"Invalid argument {role}: {frame!r}")
        with self._lock:
            known = set(self._links) | {link.parent for link in self._links.values()}
            for frame in (target, source):
                if frame not in known:
                    raise LookupException(f'"{frame}" passed to lookupTransform does not exist')
            target_ancestors, source_ancestors = self._ancestors(target), self._ancestors(source)
            common = next((frame for frame in source_ancestors if frame in target_ancestors), None)
            if common is None:
                raise ConnectivityException(f'Could not find a connection between "{target}" and "{source}"')
            chain_target = target_ancestors[:target_ancestors.index(common)]
            chain_source = source_ancestors[:source_ancestors.index(common)]
            if stamp == 0:
                newest = [self._links[frame].stamps[-1] for frame in chain_target + chain_source
                          if not self._links[frame].static]
                stamp = min(newest, default=0)
            common_target = self._chain(chain_target, stamp)
            common_source = self._chain(chain_source, stamp)
        return _compose(_inverse(common_target), common_source), stamp

    def _ancestors(self, frame: str) -> list[str]:
        chain = [frame]
        while chain[-1] in self._links and self._links[chain[-1]].parent not in chain:
            chain.append(self._links[chain[-1]].parent)
        return chain

    def _chain(self, frames: list[str], stamp: int) -> Pose:
        """Return common <- frames[0], where the parent of every frame is the next one."""
        result: Pose = np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0])
        for frame in frames:
            result = _compose(self._links[frame].at(stamp, frame), result)
        return result


def _multiply(a: Array, b: Array) -> Array:
    """Return the quaternion product a b, x y z w."""
    return np.concatenate([a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3]), [a[3] * b[3] - a[:3] @ b[:3]]])


def _rotate(quaternion: Array, vector: Array) -> Array:
    cross = 2.0 * np.cross(quaternion[:3], vector)
    return vector + quaternion[3] * cross + np.cross(quaternion[:3], cross)


def _compose(a: Pose, b: Pose) -> Pose:
    rotation = _multiply(a[1], b[1])
    return a[0] + _rotate(a[1], b[0]), rotation / np.linalg.norm(rotation)


def _inverse(pose: Pose) -> Pose:
    conjugate = pose[1] * np.array([-1.0, -1.0, -1.0, 1.0])
    return -_rotate(conjugate, pose[0]), conjugate


def _interpolate(a: Pose, b: Pose, fraction: float) -> Pose:
    """Return the interpolated pose: linear in translation, slerp in rotation."""
    dot = float(a[1] @ b[1])
    end = b[1] if dot >= 0 else -b[1]
    angle = np.arccos(min(abs(dot), 1.0))
    if angle < 1e-6:
        rotation = (1 - fraction) * a[1] + fraction * end
    else:
        rotation = (np.sin((1 - fraction) * angle) * a[1] + np.sin(fraction * angle) * end) / np.sin(angle)
    return (1 - fraction) * a[0] + fraction * b[0], rotation / np.linalg.norm(rotation)
