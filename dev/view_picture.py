"""Makes docs/images/view.png: the demo's room on the view's web page. Usage: `python dev/view_picture.py [FILE]`.

Needs the environment of ./dev/test, rerun-sdk and Chromium (apt-get install chromium).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "test" / "support"))

from browser import Chromium  # noqa: E402
from demo import HERTZ, IMAGES, SIZE  # noqa: E402

from vggt_ros.config import Config  # noqa: E402
from vggt_ros.geometry.poses import BODY_OPTICAL  # noqa: E402
from vggt_ros.replay.run import run  # noqa: E402
from vggt_ros.synthetic import RenderedSequence, laps, room  # noqa: E402
from vggt_ros.view.opening import open_view, web_address  # noqa: E402
from vggt_ros.view.slam_view import SlamView  # noqa: E402

PORT = 9590


def main() -> None:
    """Map the room of the demo in one lap with a view, and write what a browser shows at the end."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images" / "view.png"
    sequence = RenderedSequence("demo_room", room(), laps(IMAGES // 2, 1.0), SIZE, HERTZ)
    view = SlamView(open_view(web=PORT), BODY_OPTICAL)
    run(sequence, Config().replace({"reconstructor": "multiview"}), progress=True, on_frame=view.on_frame,
        on_update=view.on_update)
    with Chromium((1400, 900)) as browser:
        browser.open(web_address(PORT, "localhost"))
        picture, before, end = browser.picture(), None, time.monotonic() + 300
        while (before is None or not np.array_equal(picture, before)) and time.monotonic() < end:
            time.sleep(20)  # while it loads and draws
            before, picture = picture, browser.picture()
    cv2.imwrite(str(path), picture[..., ::-1])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
