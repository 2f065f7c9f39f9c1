"""Place recognition and relocalization in the map.

What goes in are place descriptors and features of keyframes and of the image, and the newest `Solution`. What comes out
are loop candidates, and camera poses in the map that are verified by features and by image intensities.
"""
