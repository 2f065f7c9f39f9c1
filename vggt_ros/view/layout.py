"""Names of what the view shows, and how the viewer arranges it."""

from __future__ import annotations

import rerun.blueprint as blueprint

CAMERA = "map/camera"
"""The camera: its pose, and its image below."""
IMAGE = f"{CAMERA}/image"
POINTS = "map/points"
"""Below it, the points of every keyframe, by its id."""
KEYFRAMES = "map/keyframes"
"""Below it, frusta of keyframes, in blocks."""
PATH, GRID, WINDOWS, EDGES = "map/path", "map/grid", "map/windows", "map/edges"
DEPTH = "depth"
STATUS = "status"
NUMBERS = "numbers"
TIMELINE = "image"
"""Time of the newest image when something became known."""


def layout() -> blueprint.Blueprint:
    """Return the arrangement: the map at the left; image, depth, messages and numbers at the right."""
    return blueprint.Blueprint(
        blueprint.Horizontal(
            blueprint.Spatial3DView(origin="map", name="Map", background=[24, 26, 30]),
            blueprint.Vertical(
                blueprint.Spatial2DView(origin=CAMERA, name="Image"),
                blueprint.Spatial2DView(origin=DEPTH, name="Depth of the newest keyframe"),
                blueprint.TextLogView(origin=STATUS, name="Messages"),
                blueprint.TimeSeriesView(origin=NUMBERS, name="Numbers"),
                row_shares=[3, 3, 2, 2]),
            column_shares=[5, 2]),
        blueprint.BlueprintPanel(state="collapsed"),
        blueprint.SelectionPanel(state="collapsed"),
        blueprint.TimePanel(state="collapsed", timeline=TIMELINE, play_state="following"))
