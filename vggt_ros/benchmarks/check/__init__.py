"""The checks of the command `check`: this machine, VGGT on it, and the contract of a reconstructor."""
