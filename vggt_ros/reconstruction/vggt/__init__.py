"""VGGT: the network, its weights and what becomes of its output; the only place where torch is imported."""
