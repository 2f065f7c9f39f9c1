"""Gray images: exposure, sharpness, corners and SIFT features.

What goes in are single images or pairs. What comes out are images of normal contrast, brightness transfers between
images, a measure of sharpness, corners to track and descriptors to match.
"""
