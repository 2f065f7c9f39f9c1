"""Our fusion of windows and published ones, on the same simulated windows."""
