"""Reconstructors: the images of a window in, its geometry out."""
