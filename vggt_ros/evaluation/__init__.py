"""Evaluation of trajectories and depth maps against ground truth, and pictures of a run.

It takes stamps with poses, depth maps and point clouds, and ground truth with stamps. It returns ATE, RPE, coverage and
relative depth errors, and writes pictures as PNG.
"""
