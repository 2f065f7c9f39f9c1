"""Solved keyframes in submaps of the pose graph, and the windows that are placed in them."""
