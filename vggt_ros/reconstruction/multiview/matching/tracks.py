"""Feature tracks through the keyframes of a window: those of the tracker, sparse optical flow, and SIFT matches.

The tracker has followed features through every image in between; their tracks are taken as they are. Optical flow
between keyframes follows what the tracker did not, and SIFT features are matched where the flow fails. A keyframe that
is matched is matched with others before, too: a point that is missed in one is found again in the next. Photos without
an order in time are matched each with all others, and not followed by optical flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from vggt_ros.geometry.camera import pixel_rays
from vggt_ros.geometry.poses import Array
from vggt_ros.geometry.ray_rotation import rotation_between
from vggt_ros.images.flow import flow_at
from vggt_ros.images.sift import verified_matches
from vggt_ros.images.warped_flow import homography, is_confirmed, mapped
from vggt_ros.reconstruction.multiview.matching.features import Features
from vggt_ros.reconstruction.multiview.matching.point_flow import follow, follow_warped, motion_around
from vggt_ros.windows.keyframe import Keyframe

MIN_TRACKED_FRACTION = 0.35
"""Fraction of the points that must be tracked into the next keyframe, else features are matched, too."""
MIN_TRACKED = 80
"""Number of points that must be tracked into the next keyframe, else features are matched, too."""
FEW_MATCHES, EARLIER = 40, 4
"""With fewer certain matches to the next keyframe, up to so many keyframes before are tried, too, until one has as
many: what is between may be blurred, covered, or look elsewhere."""
MIN_MATCHES_OF_PHOTOS = 20
"""Fewest certain matches of two photos without an order in time; those that show different places have 10 at most."""
LINKED, MIN_LINKS = 6, 80
"""So many keyframes before one that is matched are matched with it, too, and the fewest certain matches that are taken:
with few of them, as at a wall without texture, scale is held weakly, and is lost by wrong ones."""
MAX_RESIDUAL = 0.012
"""Largest residual of a match that a rotation explains, radians."""
CELLS = 350
"""Number of square parts of an image in each of which one track is enough."""
MIN_SPREAD = 250
"""Fewest tracks of an image from which those next to each other are left out."""
MAX_BACKWARD_ERROR = 0.5
"""A point that is followed from keyframe to keyframe has to come back so near to where it began, pixels; twice as much
where the guess is that of matches, or of a homography."""
SAME_TRACK = 2.5
"""Largest distance, pixels, at which a track of the tracker continues a known one."""
SAME_FEATURE = 1.0
"""Largest distance, pixels, at which a matched feature continues a track."""


def track(features: Sequence[Features], keyframes: Sequence[Keyframe], known: Array | None = None) -> Array:
    """Return tracks (n, S, 2) in pixels through S keyframes, NaN where a point was not observed.

    The tracks of the tracker are taken first. New points are added in every keyframe where there is no track nearby.

    Args:
        features: of the S keyframes.
        keyframes: the S keyframes.
        known: tracks (m, S, 2) of earlier keyframes to continue; they are the first rows of the result.

    """
    count = len(features)
    tracks = np.full((0, count, 2), np.nan) if known is None else known.copy()
    first = int(np.flatnonzero(~np.isnan(tracks[..., 0]).all(0))[-1]) if len(tracks) else 0
    tracks = _with_tracks_of_the_tracker(tracks, keyframes, first)
    if all(keyframe.unordered for keyframe in keyframes):
        return _with_photos(tracks, features, first + 1)
    for index in range(first, count - 1):
        current = features[index]
        active = tracks[:, index][~np.isnan(tracks[:, index, 0])]
        new_corners = _where_no_track_is(current.corners, active, current.gray.shape[::-1])
        tracks = np.concatenate([tracks, _new_tracks(count, index, new_corners)])
        tracks, matched = _track_step(tracks, features, index)
        if matched is not None:
            tracks = _with_links(tracks, features, range(matched - 1, max(-1, index - LINKED), -1), index + 1)
    kept = (~np.isnan(tracks[:, :, 0])).sum(1) >= 2
    kept[:0 if known is None else len(known)] = True
    return tracks[kept]


def _with_tracks_of_the_tracker(tracks: Array, keyframes: Sequence[Keyframe], first: int) -> Array:
    """Return the tracks (n, S, 2) with those of the tracker from keyframe `first` on.

    Where one begins at a track that is known there, it continues that one, from where that one is: the known one may
    have been refined, and the tracker drifts.
    """
    added = _frontend_tracks(keyframes, first)
    added = added[(~np.isnan(added[..., 0])).sum(1) >= 2]
    known, begun = np.flatnonzero(~np.isnan(tracks[:, first, 0])), np.flatnonzero(~np.isnan(added[:, first, 0]))
    if not len(known) or not len(begun):
        return np.concatenate([tracks, added])
    distance = np.linalg.norm(added[begun, first][:, None] - tracks[known, first][None], axis=2)
    nearest = distance.argmin(1)
    same = np.flatnonzero(distance[np.arange(len(begun)), nearest] < SAME_TRACK)
    same = same[np.unique(nearest[same], return_index=True)[1]]  # one for each known track
    rows, sources = known[nearest[same]], begun[same]
    offset = tracks[rows, first] - added[sources, first]
    tracks[rows, first + 1:] = added[sources, first + 1:] + offset[:, None]
    new = np.ones(len(added), bool)
    new[begun[distance.min(1) < SAME_TRACK]] = False
    return np.concatenate([tracks, added[new]])


def well_spread(tracks: Array, size: tuple[int, int]) -> NDArray[np.intp]:
    """Return the rows of the tracks (n, S, 2) that are the longest in their part of some image, ascending.

    More tracks next to each other cost more than they add. But an image whose texture is in few places, as that of a
    corridor, keeps its `MIN_SPREAD` longest. `size` is width and height of the images.
    """
    seen = ~np.isnan(tracks[..., 0])
    order = np.argsort(-seen.sum(1), kind="stable")
    chosen = np.zeros(len(tracks), bool)
    for view in range(tracks.shape[1]):
        rows = order[seen[order, view]]
        chosen[rows[np.unique(_cell(tracks[rows, view], size), return_index=True)[1]]] = True
    for view in range(tracks.shape[1]):
        rows = order[seen[order, view]]
        missing = max(MIN_SPREAD - int(chosen[rows].sum()), 0)
        chosen[rows[~chosen[rows]][:missing]] = True
    return np.flatnonzero(chosen)


def _track_step(tracks: Array, features: Sequence[Features], index: int) -> tuple[Array, int | None]:
    """Return the tracks (n, S, 2) continued from keyframe `index` to the next one, and up to which it was matched.

    The latter is the earliest keyframe whose features were matched with those of the next one; None if none were.
    """
    source, target = features[index], features[index + 1]
    observed = ~np.isnan(tracks[:, index, 0])
    pending = np.flatnonzero(observed & np.isnan(tracks[:, index + 1, 0]))
    points = tracks[pending, index].astype(np.float32)
    guess = flow_at(source.coarse, target.coarse, points, source.gray.shape[1]) if len(points) else points
    moved, good = follow(source, target, points, points + guess, MAX_BACKWARD_ERROR)
    enough = max(MIN_TRACKED, MIN_TRACKED_FRACTION * observed.sum())
    if observed.sum() - len(pending) + good.sum() < enough:
        both = np.flatnonzero(observed & ~np.isnan(tracks[:, index + 1, 0]))
        first, second = (tracks[both, view].astype(np.float32) for view in (index, index + 1))
        matrix = homography(np.concatenate([first, points[good]]), np.concatenate([second, moved[good]]),
                            max(source.gray.shape))
        if matrix is not None:
            retried, retried_good = follow_warped(source, target, points, matrix, 2 * MAX_BACKWARD_ERROR)
            if is_confirmed(mapped(points, matrix), retried_good, source.gray.shape[::-1]):
                moved[retried_good], good = retried[retried_good], good | retried_good
    if observed.sum() - len(pending) + good.sum() >= enough:
        tracks[pending[good], index + 1] = moved[good]
        return tracks, None
    for earlier in range(index, max(index - 1 - EARLIER, -1), -1):
        tracks, matches = _with_matches(tracks, features, earlier, index + 1)
        if matches >= FEW_MATCHES:
            break
    good &= np.isnan(tracks[pending, index + 1, 0])
    tracks[pending[good], index + 1] = moved[good]
    return tracks, earlier


def _with_photos(tracks: Array, features: Sequence[Features], first: int) -> Array:
    """Return the tracks (n, S, 2) with the certain matches of each photo, from the `first` on, with all before it."""
    for index in range(first, len(features)):
        for earlier in range(index - 1, -1, -1):
            one, other = features[earlier], features[index]
            rows, columns, certain = verified_matches(one.photo_sift, other.photo_sift, one.intrinsics,
                                                      other.intrinsics, guided=False)
            if certain >= MIN_MATCHES_OF_PHOTOS:
                tracks = _add_matches(tracks, earlier, index, one.photo_sift.pixels[rows],
                                      other.photo_sift.pixels[columns])
    return tracks


def _with_links(tracks: Array, features: Sequence[Features], before: Iterable[int], index: int) -> Array:
    """Return the tracks (n, S, 2) with the certain matches of keyframe `index` with those `before` it.

    Matches that a rotation explains add no parallax, but errors.
    """
    for earlier in before:
        one, other = features[earlier], features[index]
        first_pixels, second_pixels, certain = _matches(one, other, guided=False)
        if certain >= MIN_LINKS and rotation_between(pixel_rays(one.intrinsics, *first_pixels.T),
                                                     pixel_rays(other.intrinsics, *second_pixels.T),
                                                     MAX_RESIDUAL, MIN_LINKS // 2) is None:
            tracks = _add_matches(tracks, earlier, index, first_pixels, second_pixels)
    return tracks


def _with_matches(tracks: Array, features: Sequence[Features], first: int, second: int) -> tuple[Array, int]:
    """Return the tracks (n, S, 2) with what matches of SIFT features say of two keyframes, and how many are certain.

    Tracks are continued by optical flow that begins with the motion of the matches around; the matches are added, too.
    """
    source, target = features[first], features[second]
    first_pixels, second_pixels, certain = _matches(source, target)
    if not len(first_pixels):
        return tracks, 0
    pending = np.flatnonzero(~np.isnan(tracks[:, first, 0]) & np.isnan(tracks[:, second, 0]))
    points = tracks[pending, first].astype(np.float32)
    if len(points):
        moved, good = follow(source, target, points, points + motion_around(points, first_pixels, second_pixels),
                             2 * MAX_BACKWARD_ERROR)
        tracks[pending[good], second] = moved[good]
    return _add_matches(tracks, first, second, first_pixels, second_pixels), certain


def _matches(source: Features, target: Features,
             guided: bool = True) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Return the pixels (k, 2) of verified matches in both, and how many of them are certain: not guided.

    With few certain ones of the others, those of fine features are taken, if enough of them are.
    """
    rows, columns, certain = verified_matches(source.sift, target.sift, source.intrinsics, target.intrinsics, guided)
    if certain < FEW_MATCHES:
        fine = verified_matches(source.fine_sift, target.fine_sift, source.intrinsics, target.intrinsics, guided)
        if fine[2] >= FEW_MATCHES:
            return source.fine_sift.pixels[fine[0]], target.fine_sift.pixels[fine[1]], fine[2]
    return source.sift.pixels[rows], target.sift.pixels[columns], certain


def _add_matches(tracks: Array, first: int, second: int, first_pixels: NDArray[np.float32],
                 second_pixels: NDArray[np.float32]) -> Array:
    """Return the tracks with matches (k, 2) of two keyframes; each continues the track that it lies on, or is new."""
    if not len(first_pixels):
        return tracks
    observed = np.flatnonzero(~np.isnan(tracks[:, first, 0]))
    new = np.ones(len(first_pixels), bool)
    if len(observed):
        distance = np.linalg.norm(tracks[observed, first][None] - first_pixels[:, None], axis=2)
        nearest = distance.argmin(1)
        same = np.flatnonzero(distance[np.arange(len(nearest)), nearest] < SAME_FEATURE)
        on_track = observed[nearest[same]]
        unknown = np.isnan(tracks[on_track, second, 0])
        tracks[on_track[unknown], second] = second_pixels[same[unknown]]
        new[same] = False
    added = _new_tracks(tracks.shape[1], first, first_pixels[new])
    added[:, second] = second_pixels[new]
    return np.concatenate([tracks, added])


def _new_tracks(count: int, index: int, pixels: NDArray[np.float32]) -> Array:
    """Return tracks (n, count, 2) that were observed in keyframe `index` only, at `pixels` (n, 2)."""
    tracks = np.full((len(pixels), count, 2), np.nan)
    tracks[:, index] = pixels
    return tracks


def _frontend_tracks(keyframes: Sequence[Keyframe], first: int) -> Array:
    """Return the tracks (n, S, 2) of the features that the frontend tracked, from keyframe `first` on, else NaN."""
    corners = [keyframe.corners if index >= first else None for index, keyframe in enumerate(keyframes)]
    known = [corner.ids for corner in corners if corner is not None]
    ids = np.unique(np.concatenate(known)) if known else np.zeros(0, np.int64)
    tracks = np.full((len(ids), len(keyframes), 2), np.nan)
    for index, corner in enumerate(corners):
        if corner is not None:
            tracks[np.searchsorted(ids, corner.ids), index] = corner.pixels
    return tracks


def _where_no_track_is(corners: NDArray[np.float32], active: Array, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return of the corners (n, 2) the first ones in each part of the image without a track; see `well_spread`."""
    cells, first = np.unique(_cell(corners, size), return_index=True)
    return corners[np.sort(first[~np.isin(cells, _cell(active, size))])]


def _cell(pixels: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.intp]:
    """Return the number of the part of an image in which pixels (n, 2) are; `size` is width and height."""
    edge = float(np.sqrt(size[0] * size[1] / CELLS))
    column, row = (pixels // edge).astype(np.intp).T
    return np.asarray(row * size[0] + column, np.intp)
