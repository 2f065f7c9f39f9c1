"""Visual odometry and localization: the pose of every image, before its window is reconstructed.

What goes in are images and the newest `Solution` of the map. What comes out are poses in the map and in the odometry
frame with covariance and state, the choice of keyframes, and the trajectory of all images at the end.
"""
