"""The dense map: depth that keyframes agree on, points with normals, and a mesh."""
