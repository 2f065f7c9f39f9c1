"""The occupancy grid of the map."""
