"""Weights of the network: found, downloaded, checked and loaded."""
