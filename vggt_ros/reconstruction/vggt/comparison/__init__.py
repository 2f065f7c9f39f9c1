"""Comparison with reference outputs and recorded runs of the published network."""
