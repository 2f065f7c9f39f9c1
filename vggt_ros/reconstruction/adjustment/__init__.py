"""Bundle adjustment of one window, shared by the reconstructors.

Images, approximate cameras and points or depth go in; cameras, points and the observations that agree with them come
out, with their covariance. Only numpy and OpenCV are needed, so that it runs where pycolmap has no wheel.
"""
