"""The CPU reconstructor: structure from motion on one window, without network weights and without a GPU.

A window of images with intrinsics goes in. Camera poses, dense depth with confidence and quality metrics come out, or
`ReconstructionRefused`. The class is in `reconstructor`.
"""
