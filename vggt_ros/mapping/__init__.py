"""The map: solved keyframes as nodes of the pose graph in submaps, and the products derived from them.

In go reconstructed windows of images, relocalizations, verified loops, and scales from metric sources. Out come
solutions (poses and scales of all keyframes), the point map, the occupancy grid, and exports of saved maps.
"""
