"""Dense depth of the keyframes of a window whose poses are known."""
