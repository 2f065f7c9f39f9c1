"""Programs beside the node: bag player and viewer, and what starts a node and records its outputs."""
