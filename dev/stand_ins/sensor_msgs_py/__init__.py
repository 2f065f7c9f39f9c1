"""Stand-in of sensor_msgs_py for development machines without ROS: just what vggt_ros calls."""
