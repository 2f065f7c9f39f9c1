"""The images of a sequence as `Slam.track` takes them: rectified, at the reconstructor's working size."""

from __future__ import annotations

from collections.abc import Iterator

from vggt_ros.config import Config
from vggt_ros.geometry.camera import Rectifier
from vggt_ros.images.mask import read_mask
from vggt_ros.reconstruction.base import Reconstructor
from vggt_ros.sequences.sequence import Sequence
from vggt_ros.windows.solution import Frame


def rectifier(sequence: Sequence, reconstructor: Reconstructor, config: Config) -> Rectifier:
    """Return what rectifies the images of a sequence, by its calibration and the setting `camera.rectified`."""
    rectified = config.camera.rectified == "true" or (config.camera.rectified == "auto" and sequence.rectified)
    return Rectifier(sequence.camera, reconstructor.image_size(sequence.camera), rectified)


def frames(sequence: Sequence, reconstructor: Reconstructor, config: Config | None = None) -> Iterator[Frame]:
    """Yield the images of a sequence as frames; raises SequenceError where the recording breaks off."""
    rectify = rectifier(sequence, reconstructor, config or Config())
    excluded = read_mask(config.camera.mask if config else "", rectify)
    for stamp, image in sequence:
        if sequence.camera is not rectify.camera:  # a bag has another calibration from here on
            rectify = rectifier(sequence, reconstructor, config or Config())
            excluded = read_mask(config.camera.mask if config else "", rectify)
        yield Frame(stamp, rectify(image), rectify.intrinsics, sequence.camera.calibrated, excluded)
