"""The VGGT network."""
