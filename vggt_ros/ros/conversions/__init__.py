"""Messages to arrays and back, as pure functions, and the types of vggt_ros_msgs."""
