"""Metric scale: how many meters a unit of the map is, and of each window.

It takes solved keyframes (`Solution`) and measurements in meters: another odometry, depth images, an IMU, or the
camera's height over the ground. It returns the state of scale (UNKNOWN, PRIOR or OBSERVED) with its sigma, and by how
much the map and its windows have to be rescaled.
"""
