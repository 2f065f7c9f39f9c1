"""Frames: what others send to TF, the pose of the camera on the robot, and what the node sends."""
