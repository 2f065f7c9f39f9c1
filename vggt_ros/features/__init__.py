"""Image features: tracked corners, ORB and SIFT features, place descriptors, landmarks and photometric refinement.

What goes in are images and the stored depth and color of keyframes. What comes out are feature tracks, descriptors
for matching and place recognition, map points of features, and camera poses refined on image intensities.
"""
