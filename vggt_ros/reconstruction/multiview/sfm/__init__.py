"""Structure from motion: camera poses and points of a window from its tracks."""
