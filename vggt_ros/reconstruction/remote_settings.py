"""Settings of the reconstructor `remote`; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from vggt_ros.settings import setting


@dataclass(frozen=True)
class RemoteConfig:
    """Windows are solved by a `reconstruction_server` on another machine."""

    server: str = setting("/reconstruction_server", "Name of the server, with its namespace.")
    width: int = setting(518, "Width of the images, rounded down to a multiple of 14, as networks need it.",
                         unit="px", low=56, high=1036)
    jpeg_quality: int = setting(95, "Quality of the images that are sent; a window of 8 is about 0.5 MB.", low=10,
                                high=100)
    lossless: bool = setting(False, "Send images as PNG and geometry in full precision: five times the bytes.")
    fallback: str = setting("wait", "What solves a window after `remote.deadline`: `wait` for the server, or the name "
                            "of a reconstructor of this machine, such as `multiview`.")
    deadline: float = setting(20.0, "Time for a window, with all attempts, after which the fallback solves it.",
                              unit="s", low=1.0, high=600.0)
    silence: float = setting(4.0, "Time without a sign of life of the server, after which the window is sent again; "
                             "twice as long each time.",
                             unit="s", low=1.0, high=60.0)
    link_delay: float = setting(0.0, "Simulated link, for tests: time in each direction.", unit="ms", low=0.0,
                                high=5000.0)
    link_loss: float = setting(0.0, "Simulated link, for tests: packets that are lost and sent again.",
                               unit="percent", low=0.0, high=90.0)
    link_rate: float = setting(0.0, "Simulated link, for tests: its rate; 0: no limit.", unit="Mbit/s", low=0.0,
                               high=10000.0)
