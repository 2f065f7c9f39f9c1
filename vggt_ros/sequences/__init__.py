"""Recorded image sequences behind one interface (`Sequence`), read without ROS.

It takes the path of a rosbag2, a video, or a folder of images, and what to assume where calibration or times are
missing. It returns images with stamps, the camera's calibration, sensor depth and ground truth where there are any.
"""
