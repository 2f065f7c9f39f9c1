"""Time and memory without ROS: of `replay`, the tracker, windows, workers, and pose graph updates."""
