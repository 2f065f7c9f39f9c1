"""Bundle adjustment of one window, shared by the reconstructors.

Images, approximate cameras and points or depth go in; cameras, points and the observations that agree with them come
out, with their covariance.
"""
