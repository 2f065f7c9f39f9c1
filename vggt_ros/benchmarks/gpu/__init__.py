"""The network: speed and memory of VGGT, and all that one visit to a GPU has to tell."""
