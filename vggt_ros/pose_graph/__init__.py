"""The pose graph over keyframes: Sim(3) nodes, overlap factors along the trajectory, and loop factors between them.

In go relative poses between consecutive keyframes, breaks of the chain, and verified loop measurements, each with a
7x7 covariance. Out come the pose and scale of every keyframe, the accepted and rejected loops with the reason for each,
and the submaps that they connect.
"""
