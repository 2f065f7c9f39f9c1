"""What the node publishes, except TF: poses, path, map, grid, features, status and diagnostics."""
