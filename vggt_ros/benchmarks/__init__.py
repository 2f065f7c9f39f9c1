"""Comparisons with published schemes; nothing that runs on a robot."""
