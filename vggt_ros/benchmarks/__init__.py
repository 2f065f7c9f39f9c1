"""Benchmarks: accuracy, fusion of windows, metric scale, pose graph updates, cost of the node, memory and the network.

Each takes sequences, or the parameters of simulated ones, and settings. Each prints a table and returns its figures as
a dictionary, which the command line writes as JSON.
"""
