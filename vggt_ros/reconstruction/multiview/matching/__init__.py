"""Tracks of features through the keyframes of a window."""
