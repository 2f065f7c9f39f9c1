"""Saved maps: exported to other formats, and restored."""
