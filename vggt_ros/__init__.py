"""vggt_ros: dense monocular SLAM for ROS 2 by feed-forward multi-view reconstruction and a GTSAM pose graph."""

__version__ = "0.1.0"
