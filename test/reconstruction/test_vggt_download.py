"""Download of weights over HTTP: a local imitation of the hub, and the real huggingface_hub as its client."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from paths import ROOT

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

from vggt_ros.reconstruction.vggt import rule
from vggt_ros.reconstruction.vggt.sizes import Sizes

TINY = Sizes(embed_dim=64, heads=2, depth=4, encoder_depth=2, taps=(0, 1, 2, 3), features=16,
             out_channels=(8, 16, 24, 32), track_channels=(8, 16, 24, 32), camera_heads=2)
CLIENT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from vggt_ros.reconstruction.vggt import weight_files, weights
reported = []
def progress(text):
    reported.append(text)
    if sys.argv[4] == "stop":
        raise KeyboardInterrupt("enough")
try:
    path = weight_files.find(sys.argv[2], cache=Path(sys.argv[3]), progress=progress)
    print(json.dumps({"sizes": weights.load(path, torch.device("cpu")).sizes.embed_dim, "progress": reported}))
except (weight_files.WeightsError, KeyboardInterrupt) as error:
    print(json.dumps({"error": str(error), "progress": reported}))
"""


class Hub(BaseHTTPRequestHandler):
    """Imitates the hub for the files of a repository, as far as its client needs."""

    files: dict[str, bytes]

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        repository, _, name = self.path.lstrip("/").partition("/resolve/")
        name = name.partition("/")[2]
        if repository == "someone/gated":
            return self.refuse(403, "GatedRepo")
        if repository != "someone/vggt":
            return self.refuse(401, "RepoNotFound")
        if name not in self.files:
            return self.refuse(404, "EntryNotFound")
        content = self.files[name]
        self.send_response(200)
        for key, value in {"X-Repo-Commit": "a" * 40, "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                           "Content-Length": str(len(content)), "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def refuse(self, status, code):
        self.send_response(status)
        for key, value in {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module", name="hub")
def _hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    TINY.save(folder / "config.json")
    state = {name: torch.from_numpy(value) for name, value in rule.weights(TINY, 0)}
    safetensors.save_file(state, folder / "model.safetensors")
    Hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def find(repository, cache, endpoint, mode="go"):
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                    "HF_HOME": str(cache)}
    done = subprocess.run([sys.executable, "-c", CLIENT, str(ROOT), repository, str(cache), mode],
                          capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_weights_and_sizes_are_downloaded_with_progress_then_cached(hub, tmp_path):
    first = find("someone/vggt", tmp_path, hub)
    assert first["sizes"] == 64
    assert any(text.startswith("downloading the weights, 0.0") for text in first["progress"])
    again = find("someone/vggt", tmp_path, "http://127.0.0.1:9")  # no server at this port
    assert again == {"sizes": 64, "progress": []}


def test_an_exception_of_the_progress_callback_ends_the_download(hub, tmp_path):
    assert find("someone/vggt", tmp_path, hub, "stop")["error"] == "enough"


@pytest.mark.parametrize(("repository", "words"), [
    ("someone/gated", "gated: apply at https://huggingface.co/someone/gated"),
    ("someone/else", "there is no https://huggingface.co/someone/else, or it is private")])
def test_refusals_of_the_hub_name_the_cure(hub, tmp_path, repository, words):
    assert words in find(repository, tmp_path, hub)["error"]


@pytest.mark.slow
def test_no_network_and_nothing_cached(tmp_path):
    """Takes half a minute, because the client of the hub retries."""
    assert "connect once, or copy model.safetensors" in find("someone/vggt", tmp_path, "http://127.0.0.1:9")["error"]
