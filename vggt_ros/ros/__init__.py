"""The ROS 2 node `vggt_slam` and its bag player: messages, TF, lifecycle and services; rclpy is imported only here.

Image, CameraInfo, IMU, odometry and depth messages, TF, parameters and service calls go in. Odometry, poses, TF, the
path, clouds, depth, an occupancy grid, markers, status and diagnostics come out.
"""
