"""Point tracks through the keyframes of a window by sparse optical flow (Lucas and Kanade, pyramidal)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vggt_ros.windows.keyframe import Keyframe

Array = NDArray[np.float64]
Gray = NDArray[np.uint8]

PATCH = (21, 21)
LEVELS = 3
TERMINATION = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 0.01)
COARSE_WIDTH = 160
MIN_SURVIVAL = 0.35
"""Fraction of the points that must arrive in the next keyframe, or another first guess is tried."""
MIN_MATCHES = 12


@dataclass(frozen=True, eq=False)
class Features:
    """What tracking needs of one keyframe, computed once.

    Attributes:
        gray: uint8 (H, W).
        coarse: uint8, the image at `COARSE_WIDTH`, for the first guess.
        corners: float32 (n, 2), strongest first.

    """

    gray: Gray
    coarse: Gray
    corners: NDArray[np.float32]

    def sift(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return SIFT keypoints (m, 2) in pixels of the full image and their descriptors (m, 128), at half size."""
        half = cv2.resize(self.gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        keypoints, descriptors = cv2.SIFT_create(400).detectAndCompute(half, None)
        if descriptors is None:
            return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
        return np.array([keypoint.pt for keypoint in keypoints], np.float32) * 2 + 0.5, descriptors


def detect(image: NDArray[np.uint8], count: int) -> Features:
    """Return the features of an RGB image (H, W, 3): up to `count` corners (Shi and Tomasi, CVPR 1994)."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = gray.shape
    coarse = cv2.resize(gray, (COARSE_WIDTH, round(height * COARSE_WIDTH / width)), interpolation=cv2.INTER_AREA)
    spacing = 0.5 * np.sqrt(height * width / count)
    corners = cv2.goodFeaturesToTrack(gray, count, 0.001, spacing, blockSize=5)
    corners = np.zeros((0, 2), np.float32) if corners is None else corners.reshape(-1, 2)
    return Features(gray, coarse, corners)


def track(features: list[Features], keyframes: Sequence[Keyframe], max_drift: float = 0.5) -> Array:
    """Return tracks (n, S, 2) in pixels through S keyframes, NaN where a point was not seen.

    New points are taken up in every keyframe where no track passes; a step is kept if tracking it back ends within
    `max_drift` pixels of where it began. Where keyframes were thinned, those that are left may be too far apart for
    that: there the corners that were followed through the images in between lead across.
    """
    spacing = 0.5 * np.sqrt(features[0].gray.size / max(len(features[0].corners), 1))
    thinned = keyframes[-1].id - keyframes[0].id >= len(keyframes)
    tracks = _followed(keyframes) if thinned else np.full((0, len(features), 2), np.nan)
    for index, current in enumerate(features[:-1]):
        alive = tracks[:, index][~np.isnan(tracks[:, index, 0])]
        fresh = _uncovered(current.corners, alive, current.gray.shape, spacing)
        begun = np.full((len(fresh), len(features), 2), np.nan)
        begun[:, index] = fresh
        tracks = np.concatenate([tracks, begun])
        ended = np.flatnonzero(~np.isnan(tracks[:, index, 0]) & np.isnan(tracks[:, index + 1, 0]))
        present = len(alive) + len(fresh)
        wanted = len(ended) - (1 - MIN_SURVIVAL) * present
        moved, good = step(current, features[index + 1], tracks[ended, index].astype(np.float32), max_drift, wanted)
        tracks[ended[good], index + 1] = moved[good]
    return tracks[(~np.isnan(tracks[:, :, 0])).sum(1) >= 2]


def _followed(keyframes: Sequence[Keyframe]) -> Array:
    """Return the tracks (n, S, 2) of the keyframes' corners, NaN where one is not seen."""
    corners = [keyframe.corners for keyframe in keyframes]
    known = [corner.ids for corner in corners if corner is not None]
    ids = np.unique(np.concatenate(known)) if known else np.zeros(0, np.int64)
    tracks = np.full((len(ids), len(keyframes), 2), np.nan)
    for index, corner in enumerate(corners):
        if corner is not None:
            tracks[np.searchsorted(ids, corner.ids), index] = corner.pixels
    return tracks


def step(source: Features, target: Features, points: NDArray[np.float32], max_drift: float,
         wanted: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the points (n, 2) of `source` in `target`, and which of them tracked back to within `max_drift` pixels.

    Dense flow at low resolution gives the first guess; where fewer than `wanted` arrive (a fast turn), a homography by
    SIFT.
    """
    if not len(points):
        return points, np.zeros(0, bool)
    moved, good = _lucas_kanade(source, target, points, points + _coarse_flow(source, target, points), max_drift)
    if good.sum() < wanted:
        homography = _coarse_homography(source, target)
        if homography is not None:
            guess = cv2.perspectiveTransform(points[None], homography)[0].astype(np.float32)
            again, also = _lucas_kanade(source, target, points, guess, 2 * max_drift)
            moved, good = np.where(also[:, None], again, moved), good | also
    return moved, good


def _lucas_kanade(source: Features, target: Features, points: NDArray[np.float32], guess: NDArray[np.float32],
                  max_drift: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the points in `target` tracked from a guess, and which of them track back."""
    options = {"winSize": PATCH, "maxLevel": LEVELS, "criteria": TERMINATION, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    moved, found, _ = cv2.calcOpticalFlowPyrLK(source.gray, target.gray, points, guess.copy(), **options)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(target.gray, source.gray, moved, points + moved - guess, **options)
    height, width = target.gray.shape
    inside = (moved > 3).all(1) & (moved < [width - 4, height - 4]).all(1)
    near = np.linalg.norm(back - points, axis=1) < max_drift
    return moved, (found[:, 0] > 0) & (found_back[:, 0] > 0) & inside & near


def _coarse_homography(source: Features, target: Features) -> Array | None:
    """Return the homography (3, 3) of most SIFT matches at low resolution, or None if there are too few."""
    (first, described), (second, described_too) = source.sift(), target.sift()
    if min(len(first), len(second)) < MIN_MATCHES:
        return None
    pairs = cv2.BFMatcher().knnMatch(described, described_too, k=2)
    matches = [best for best, other in pairs if best.distance < 0.8 * other.distance]
    if len(matches) < MIN_MATCHES:
        return None
    homography, inliers = cv2.findHomography(first[[match.queryIdx for match in matches]],
                                             second[[match.trainIdx for match in matches]], cv2.USAC_MAGSAC, 6.0)
    return homography if homography is not None and inliers.sum() >= MIN_MATCHES else None


def _coarse_flow(source: Features, target: Features, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a first guess (n, 2) of the motion of points, from dense flow at low resolution."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dense = flow.calc(source.coarse, target.coarse, None)
    scale = source.gray.shape[1] / source.coarse.shape[1]
    at = ((points + 0.5) / scale - 0.5).astype(np.float32)
    return cv2.remap(dense, at[None, :, 0].copy(), at[None, :, 1].copy(), cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REPLICATE)[0] * np.float32(scale)


def _uncovered(corners: NDArray[np.float32], alive: Array, shape: tuple[int, ...],
               spacing: float) -> NDArray[np.float32]:
    """Return the corners farther than `spacing` pixels from every live track."""
    if not len(corners):
        return corners
    free = np.full(shape, 255, np.uint8)
    for x, y in np.rint(alive).astype(int):
        cv2.circle(free, (int(x), int(y)), int(spacing), 0, -1)
    at = np.rint(corners).astype(int)
    return corners[free[at[:, 1].clip(0, shape[0] - 1), at[:, 0].clip(0, shape[1] - 1)] > 0]
