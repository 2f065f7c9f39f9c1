"""The benchmark of workers tells equal results from others, and kills a worker."""

from functools import partial

import numpy as np
import pytest
from worker_oracles import Recording, create

from vggt_ros.benchmarks.speed import workers as benchmark
from vggt_ros.config import Config
from vggt_ros.workers.pool import Pool
from vggt_ros.workers.processes import ProcessWorker

RECORDING = (56, range(0), 0)
CONFIG = Config().replace({"refine": "off", "loops.min_gap": 8})


@pytest.mark.slow  # test_workers.py compares results and kills workers, too
def test_one_worker_two_and_two_of_which_one_is_killed(monkeypatch, capsys):
    """The rendered room: every row has the same results, and the killed worker's window is sent again, once."""
    monkeypatch.setattr(benchmark, "load", lambda name: Recording(*RECORDING))
    found = []
    measure = benchmark.differences
    monkeypatch.setattr(benchmark, "differences", lambda one, other: found.append((one, other)) or measure(one, other))
    figures = benchmark.workers(["room"], 2, config=CONFIG, open_workers=lambda config, size, address: Pool(
        lambda: ProcessWorker(config, partial(create, chained=True, recording=RECORDING)), size))
    one, two, killed = figures["room"]
    assert [row["workers"] for row in (one, two, killed)] == [1, 2, 2]
    assert not any(row["differences"] for row in figures["room"]) and min(row["wall_s"] for row in figures["room"]) > 0
    assert [row["retries"] for row in figures["room"]] == [0, 0, 1]
    assert killed["answered"] == killed["ahead"] + killed["unexpected"]
    assert capsys.readouterr().out.count("yes") == 3
    first, other = found[1]
    other.slam.solution.map_camera[3, 0, 3] = np.nextafter(other.slam.solution.map_camera[3, 0, 3], np.inf)
    other.frames[5].map_camera[0, 3] += 1e-12
    assert measure(first, other) == ["map_camera", "poses of images"]
