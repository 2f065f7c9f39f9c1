"""The lifecycle node `vggt_slam`: its start, its parts, its services, and what it does with images and windows."""
