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

from tiny_vggt import write_weights

from vggt_ros.reconstruction.vggt.checkpoints import weight_files, weights

CLIENT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from vggt_ros.reconstruction.vggt.checkpoints import weight_files, weights
reported = []
def progress(text):
    reported.append(text)
    if sys.argv[4] == "stop":
        raise KeyboardInterrupt("enough")
try:
    path = weight_files.find(sys.argv[2], cache=Path(sys.argv[3]), progress=progress, revision=sys.argv[5])
    print(json.dumps({"sizes": weights.load(path, torch.device("cpu")).sizes.embed_dim, "progress": reported}))
except (weight_files.WeightsError, KeyboardInterrupt) as error:
    print(json.dumps({"error": str(error), "progress": reported}))
"""


class Hub(BaseHTTPRequestHandler):
    """Imitates the hub for the files of a repository, as far as its client needs.

    The weights of `someone/damaged` do not have the hash that it gives, those of `someone/short` are shorter than its
    answer to HEAD says.
    """

    files: dict[str, bytes]

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        repository, _, name = self.path.lstrip("/").partition("/resolve/")
        revision, _, name = name.partition("/")
        if repository == "someone/gated":
            return self.refuse(403, "GatedRepo")
        if repository not in ("someone/vggt", "someone/damaged", "someone/short"):
            return self.refuse(401, "RepoNotFound")
        if revision not in ("main", "v2", "a" * 40):
            return self.refuse(404, "RevisionNotFound")
        if name not in self.files:
            return self.refuse(404, "EntryNotFound")
        content = self.files[name]
        digest = hashlib.sha256(content).hexdigest()
        if name == "model.safetensors" and repository == "someone/short" and body:
            content = content[:-1000]
        self.send_response(200)
        for key, value in {"X-Repo-Commit": "a" * 40, "ETag": f'"{digest}"',
                           "Content-Length": str(len(content)), "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.end_headers()
        if name == "model.safetensors" and repository == "someone/damaged":
            content = content[:-1] + bytes([content[-1] ^ 1])
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
    write_weights(folder)
    Hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def find(repository, cache, endpoint, mode="go", revision=""):
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                    "HF_HOME": str(cache)}
    done = subprocess.run([sys.executable, "-c", CLIENT, str(ROOT), repository, str(cache), mode,
                           revision],
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


def test_a_revision_can_be_pinned(hub, tmp_path):
    assert find("someone/vggt", tmp_path, hub, revision="v2")["sizes"] == 64
    assert (tmp_path / "models--someone--vggt" / "refs" / "v2").is_file()
    assert "vggt.revision: someone/vggt has no branch, tag or commit 'v3'" in \
        find("someone/vggt", tmp_path, hub, revision="v3")["error"]


def test_a_wrong_hash_is_named(hub, tmp_path):
    """One bit of the file is wrong; its name in the cache is the hash that the hub has given."""
    error, content = find("someone/damaged", tmp_path, hub)["error"], Hub.files["model.safetensors"]
    assert "is damaged: its SHA-256 is " in error
    assert f"not {hashlib.sha256(content).hexdigest()}, with {len(content)} bytes; delete" in error


def test_a_wrong_size_is_named(hub, tmp_path):
    error, size = find("someone/short", tmp_path, hub)["error"], len(Hub.files["model.safetensors"])
    assert "model.safetensors of someone/short could not be downloaded" in error
    assert f"size {size} but has size {size - 1000}" in error


def test_a_huggingface_hub_that_reports_no_progress(hub, tmp_path, monkeypatch):
    """Before 1.0 its download has no parameter for a progress bar; the new one is called with the old parameters."""
    import huggingface_hub
    from huggingface_hub import hf_hub_download

    def old(repo_id, filename, *, revision=None, cache_dir=None, local_files_only=False):
        return hf_hub_download(repo_id, filename, revision=revision, cache_dir=cache_dir, endpoint=hub,
                               local_files_only=local_files_only)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", old)
    reported = []
    path = weight_files.find("someone/vggt", cache=tmp_path, progress=reported.append)
    assert weights.load(path, torch.device("cpu")).sizes.embed_dim == 64
    assert reported[0] == "downloading the weights; this huggingface_hub does not report how far"
    assert reported[-1] == "comparing the weights with their hash, 100 %"


@pytest.mark.slow
def test_no_network_and_nothing_cached(tmp_path):
    """Takes half a minute, because the client of the hub retries."""
    assert "connect once, or copy model.safetensors" in find("someone/vggt", tmp_path, "http://127.0.0.1:9")["error"]
