"""Windows of keyframes, their alignment, and the immutable snapshots that the pipeline exchanges.

What goes in are keyframes, reconstructed depth and poses of a window, and those of the map that it overlaps with.
What comes out are windows to reconstruct, the similarity of a window in the map with its covariance, and the types
`Solution`, `TrackedFrame` and `Update`.
"""
