"""Feature tracks through the keyframes of a window by sparse optical flow (pyramidal Lucas-Kanade)."""

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
MIN_TRACKED_FRACTION = 0.35
"""Fraction of the points that must be tracked into the next keyframe, else another initial guess is tried."""
MIN_MATCHES = 12


@dataclass(frozen=True, eq=False)
class Features:
    """Images and features of one keyframe that tracking needs, computed once.

    Attributes:
        gray: uint8 (H, W).
        coarse: uint8, the image at width `COARSE_WIDTH`, for the initial guess of the flow.
        corners: float32 (n, 2), strongest first.

    """

    gray: Gray
    coarse: Gray
    corners: NDArray[np.float32]

    def sift(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return SIFT keypoints (m, 2) and descriptors (m, 128), detected at half size; pixels of the full image."""
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


def track(features: list[Features], keyframes: Sequence[Keyframe], max_backward_error: float = 0.5) -> Array:
    """Return tracks (n, S, 2) in pixels through S keyframes, NaN where a point was not observed.

    New points are added in every keyframe where there is no track nearby. A step is accepted if tracking backward ends
    within `max_backward_error` pixels of its start. Where keyframes were thinned, the remaining ones may be too far
    apart for this; there the features that the frontend tracked through the images in between are used first.
    """
    spacing = 0.5 * np.sqrt(features[0].gray.size / max(len(features[0].corners), 1))
    thinned = keyframes[-1].id - keyframes[0].id >= len(keyframes)
    tracks = _frontend_tracks(keyframes) if thinned else np.full((0, len(features), 2), np.nan)
    for index, current in enumerate(features[:-1]):
        active = tracks[:, index][~np.isnan(tracks[:, index, 0])]
        new_corners = _away_from_tracks(current.corners, active, current.gray.shape, spacing)
        new_tracks = np.full((len(new_corners), len(features), 2), np.nan)
        new_tracks[:, index] = new_corners
        tracks = np.concatenate([tracks, new_tracks])
        interrupted = np.flatnonzero(~np.isnan(tracks[:, index, 0]) & np.isnan(tracks[:, index + 1, 0]))
        present = len(active) + len(new_corners)
        min_tracked = len(interrupted) - (1 - MIN_TRACKED_FRACTION) * present
        moved, good = track_step(current, features[index + 1], tracks[interrupted, index].astype(np.float32),
                                 max_backward_error, min_tracked)
        tracks[interrupted[good], index + 1] = moved[good]
    return tracks[(~np.isnan(tracks[:, :, 0])).sum(1) >= 2]


def _frontend_tracks(keyframes: Sequence[Keyframe]) -> Array:
    """Return the tracks (n, S, 2) of the features that the frontend tracked, NaN where one was not observed."""
    corners = [keyframe.corners for keyframe in keyframes]
    known = [corner.ids for corner in corners if corner is not None]
    ids = np.unique(np.concatenate(known)) if known else np.zeros(0, np.int64)
    tracks = np.full((len(ids), len(keyframes), 2), np.nan)
    for index, corner in enumerate(corners):
        if corner is not None:
            tracks[np.searchsorted(ids, corner.ids), index] = corner.pixels
    return tracks


def track_step(source: Features, target: Features, points: NDArray[np.float32], max_backward_error: float,
               min_tracked: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the points (n, 2) of `source` in `target`, and which of them passed the forward-backward check.

    Dense flow at low resolution gives the initial guess. If fewer than `min_tracked` points pass (fast rotation), a
    homography from SIFT matches does.
    """
    if not len(points):
        return points, np.zeros(0, bool)
    moved, good = _lucas_kanade(source, target, points, points + _coarse_flow(source, target, points),
                                max_backward_error)
    if good.sum() < min_tracked:
        homography = _coarse_homography(source, target)
        if homography is not None:
            guess = cv2.perspectiveTransform(points[None], homography)[0].astype(np.float32)
            retried, retried_good = _lucas_kanade(source, target, points, guess, 2 * max_backward_error)
            moved, good = np.where(retried_good[:, None], retried, moved), good | retried_good
    return moved, good


def _lucas_kanade(source: Features, target: Features, points: NDArray[np.float32], guess: NDArray[np.float32],
                  max_backward_error: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the points in `target` tracked from an initial guess, and which passed the forward-backward check."""
    options = {"winSize": PATCH, "maxLevel": LEVELS, "criteria": TERMINATION, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    moved, found, _ = cv2.calcOpticalFlowPyrLK(source.gray, target.gray, points, guess.copy(), **options)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(target.gray, source.gray, moved, points + moved - guess, **options)
    height, width = target.gray.shape
    inside = (moved > 3).all(1) & (moved < [width - 4, height - 4]).all(1)
    near = np.linalg.norm(back - points, axis=1) < max_backward_error
    return moved, (found[:, 0] > 0) & (found_back[:, 0] > 0) & inside & near


def _coarse_homography(source: Features, target: Features) -> Array | None:
    """Return the homography (3, 3) from SIFT matches at low resolution by RANSAC, or None with too few inliers."""
    (first, first_descriptors), (second, second_descriptors) = source.sift(), target.sift()
    if min(len(first), len(second)) < MIN_MATCHES:
        return None
    pairs = cv2.BFMatcher().knnMatch(first_descriptors, second_descriptors, k=2)
    matches = [best for best, other in pairs if best.distance < 0.8 * other.distance]
    if len(matches) < MIN_MATCHES:
        return None
    homography, inliers = cv2.findHomography(first[[match.queryIdx for match in matches]],
                                             second[[match.trainIdx for match in matches]], cv2.USAC_MAGSAC, 6.0)
    return homography if homography is not None and inliers.sum() >= MIN_MATCHES else None


def _coarse_flow(source: Features, target: Features, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an initial guess (n, 2) of the motion of points, from dense flow at low resolution."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dense = flow.calc(source.coarse, target.coarse, None)
    scale = source.gray.shape[1] / source.coarse.shape[1]
    at = ((points + 0.5) / scale - 0.5).astype(np.float32)
    return cv2.remap(dense, at[None, :, 0].copy(), at[None, :, 1].copy(), cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_REPLICATE)[0] * np.float32(scale)


def _away_from_tracks(corners: NDArray[np.float32], active: Array, shape: tuple[int, ...],
                      spacing: float) -> NDArray[np.float32]:
    """Return the corners farther than `spacing` pixels from every active track."""
    if not len(corners):
        return corners
    free = np.full(shape, 255, np.uint8)
    for x, y in np.rint(active).astype(int):
        cv2.circle(free, (int(x), int(y)), int(spacing), 0, -1)
    at = np.rint(corners).astype(int)
    return corners[free[at[:, 1].clip(0, shape[0] - 1), at[:, 0].clip(0, shape[1] - 1)] > 0]
