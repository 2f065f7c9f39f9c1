"""Commands that need no DDS, and the demo."""
