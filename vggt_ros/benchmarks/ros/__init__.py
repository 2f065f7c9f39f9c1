"""The node and its transport: cost, live runs at a camera's rate, losses and latency of images."""
