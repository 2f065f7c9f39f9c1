"""Replacement of sensor_msgs_py for development machines without ROS, limited to what vggt_ros uses."""
