"""A model of the memory that a window needs, to decide beforehand whether it fits."""

from __future__ import annotations

from vggt_ros.reconstruction.da3.sizes import PATCH, Sizes


def activation_bytes(sizes: Sizes, frames: int, height: int, width: int, compute_bytes: int = 4,
                     chunk: int = 8) -> int:
    """Return the peak bytes allocated in addition to the weights while a window is computed.

    The largest of two: a block over all images, with what the depth head will read; or the widest step of the depth
    head, for `chunk` images at a time, with what it reads and what it has computed.

    Args:
        sizes: of the network.
        frames, height, width: number and size of the images.
        compute_bytes: bytes of a number in the products of the transformer.
        chunk: number of images that the depth head processes at a time.

    """
    dim, patches = sizes.embed_dim, height * width // PATCH**2
    tokens, chunk, pixels = frames * (patches + 1), min(chunk, frames), height * width
    images = 2 * 4 * 3 * frames * pixels
    taps = 4 * 4 * tokens * 2 * dim
    hidden = (6 if sizes.gated else 4) * dim
    mlp = tokens * (4 * 2 * dim + 2 * compute_bytes * hidden)
    attention = tokens * dim * (4 * 2 + 6 * compute_bytes)
    # At full resolution: the features, and their copy with positions or the next layer; and a table of the positions.
    channels = sizes.features // 2
    step = 4 * pixels * (chunk * max(2.25 * channels, channels + 36) + channels + 24)
    maps = 4 * frames * pixels * 2 * 2
    return int(images + taps + max(mlp, attention, taps + maps + step))
