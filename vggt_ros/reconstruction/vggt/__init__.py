"""The GPU reconstructor: the VGGT network, its weights, inference and decoding; torch is imported only here.

A window of images goes in. Camera poses, dense depth with confidence and place descriptors come out, or
`ReconstructionRefused`.
"""
