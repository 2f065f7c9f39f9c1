"""Running the network on a device: memory, kernels, compilation, inference."""
