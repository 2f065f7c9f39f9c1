"""Errors of trajectories, maps, grids and metric scale, on recorded and rendered sequences."""
