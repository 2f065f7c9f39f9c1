"""What the node subscribes to: images with calibration, IMU, odometry, depth, an initial pose."""
