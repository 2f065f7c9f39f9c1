"""Why a run made no map, or a doubtful one, and what can be done about it."""

from __future__ import annotations

from vggt_ros.reconstruction.adjustment.calibration_check import contradiction
from vggt_ros.replay.run import Run


def contradicted_calibration(result: Run) -> str:
    """Return how the images contradict the calibration, by all windows, and what can be done; empty if they do not."""
    reports = [update.report for update in result.updates if update.report]
    return contradiction(reports[-1]) if reports else ""


def why_not_located(result: Run) -> str:
    """Return why no image was located in a loaded map, and what would be right; empty if one was, or none is loaded."""
    if result.loaded is None or result.config.mode != "localization" or not result.frames or _has_located(result):
        return ""
    return ("no image was found in the loaded map: show a place that it has, from about the same direction, in light; "
            "another camera than that of the map needs a calibration")


def _has_located(result: Run) -> bool:
    return any(tracked.map_camera is not None for tracked in result.frames)


def why_no_map(result: Run) -> str:
    """Return in a sentence what was lacking in a run without a map, and what would be right; empty if it has one."""
    images, counts = len(result.frames), result.slam.counts
    if len(result.slam.solution):
        return ""
    if result.interrupted:
        return "the run was interrupted before there was one"
    if not images:
        return "no image could be used"
    if images < 2 and result.dropped_images:
        return (f"only one of {1 + result.dropped_images} images has a time of its own: the others have stamps that "
                "are no newer; let the driver set header.stamp")
    if images < 2:
        return "one image shows no depth; record at least two from different places"
    if result.dark_images > images / 2:
        return "most images are dark; raise the exposure or add light"
    if not counts.keyframes:
        return "nothing in the images could be followed; show the camera more texture, and focus it"
    if counts.keyframes < 2:
        parallax = result.config.keyframes.min_parallax
        return (f"the camera stood still: no second keyframe, which needs an image motion of {parallax:g} px "
                "(keyframes.min_parallax); move it sideways")
    if result.failures and not any(update.refused for update in result.updates):
        return "the windows failed, see above"
    return ("no window could be solved, see above; move the camera sideways past things with texture, slower or at a "
            "higher frame rate, and calibrate it if its lens is wide")
