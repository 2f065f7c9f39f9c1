"""pose_graph."""
