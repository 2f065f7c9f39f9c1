"""From the raw output of the network to the geometry of a window."""
