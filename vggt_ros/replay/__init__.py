"""Replay: a recorded sequence through the same pipeline as the node's, without ROS, threads and dropped images.

It takes a `Sequence`, the settings, and optionally a saved map and sources of metric scale. It returns a `Run` with the
map and the pose of every image, and writes trajectories, map, pictures and report.json.
"""
