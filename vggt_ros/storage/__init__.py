"""Files: saved maps, and point clouds and trajectories in formats that other programs read.

It takes a `MapRecord` (all of a map as numpy arrays), point clouds, and stamps with poses. It writes a map folder, PLY
files and trajectories in TUM's format, and returns the same objects, checked, from such files.
"""
