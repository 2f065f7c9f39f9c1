"""Find and download the file of the weights, and compare it with the hash that the hub gives for it."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from vggt_ros.reconstruction.base import ReconstructorUnavailable

FILE_NAMES = ("model.safetensors", "model.pt", "vggt_1B_commercial.pt")
Progress = Callable[[str], None]
"""Called with the state of something that takes long; an exception that it raises ends it."""


class WeightsError(ReconstructorUnavailable):
    """The weights are not available or do not fit the network; the text gives the cure."""


def find(source: str, download: bool = True, cache: Path | None = None, progress: Progress | None = None,
         revision: str = "", owner: str = "vggt", names: Sequence[str] = FILE_NAMES) -> Path:
    """Return the path of the weights file.

    Args:
        source: a `.safetensors` or `.pt` file, a folder that contains one, or a Hugging Face repository.
        download: whether to download; False uses only files on disk.
        cache: folder of the Hugging Face cache; None for the default.
        progress: called with the download progress, if the installed huggingface_hub reports it.
        revision: branch, tag or commit of the repository; empty for its main branch.
        owner: group of the setting `weights`, for messages.
        names: of files, in the order in which they are tried; their endings are those that are accepted.

    Raises:
        WeightsError: no weights file was found, or what was downloaded is damaged.

    """
    path = Path(os.path.expanduser(source))
    if path.is_file():
        if path.suffix not in (endings := sorted({Path(name).suffix for name in names})):
            raise WeightsError(f"{owner}.weights: {path} is not a file of the kind {' or '.join(endings)}")
        return path
    if path.is_dir():
        for name in names:
            if (path / name).is_file():
                return path / name
        raise WeightsError(f"{owner}.weights: the folder {path} contains none of {', '.join(names)}")
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise WeightsError(f"{owner}.weights: {source} does not exist, and is not a Hugging Face repository "
                           "(owner/name)")
    return _find_in_hub(source, download, cache, progress, revision, owner, names)


def _find_in_hub(repository: str, download: bool, cache: Path | None, progress: Progress | None,
                 revision: str, owner: str, names: Sequence[str]) -> Path:
    """Return the file in the Hugging Face cache, downloading it if necessary; raises WeightsError."""
    try:
        from huggingface_hub import errors as hub
        from huggingface_hub import hf_hub_download
    except ImportError as error:  # not installed, or older than 0.25
        raise WeightsError(f"{owner}.weights: {repository} needs the package huggingface_hub, 0.25 or newer ({error}); "
                           f"pip install -U huggingface_hub safetensors, or set {owner}.weights to a folder") from error
    page = f"https://huggingface.co/{repository}"
    canceled: list[BaseException] = []

    def fetch(name: str, online: bool, **options: Any) -> Path | None:
        """Return a file of the repository, None if it does not exist; raises WeightsError, LocalEntryNotFoundError."""
        if revision:
            options["revision"] = revision
        try:
            return Path(hf_hub_download(repository, name, cache_dir=cache, local_files_only=not online, **options))
        except hub.GatedRepoError as error:
            raise WeightsError(f"{owner}.weights: {repository} is gated: apply at {page}, then run `hf auth login` or "
                               "set HF_TOKEN") from error
        except hub.RepositoryNotFoundError as error:
            raise WeightsError(f"{owner}.weights: there is no {page}, or it is private: check the name, or run "
                               "`hf auth login`") from error
        except hub.RevisionNotFoundError as error:
            raise WeightsError(f"{owner}.revision: {repository} has no branch, tag or commit {revision!r}: see "
                               f"{page}/commits/main") from error
        except hub.LocalEntryNotFoundError:  # not cached, and downloading is disabled or there is no network
            if online:
                raise
            return None
        except hub.EntryNotFoundError:
            return None
        except Exception as error:  # of the hub, of one of its HTTP clients, of the system
            if canceled:
                raise canceled[0] from None
            raise WeightsError(f"{owner}.weights: {name} of {repository} could not be downloaded "
                               f"({type(error).__name__}: {error}): try again, what has arrived is kept") from error

    for name in names:  # cached files first: a missing network may be slow to fail
        if path := fetch(name, online=False):
            return path
    if download:
        bar: dict[str, Any] = {}
        if progress is not None and "tqdm_class" in inspect.signature(hf_hub_download).parameters:  # from 1.0 on
            bar["tqdm_class"] = _progress_bar(progress, canceled)
        elif progress is not None:
            progress("downloading the weights; this huggingface_hub does not report how far")
        with suppress(hub.LocalEntryNotFoundError):
            fetch("config.json", online=True)  # defines sizes other than the published ones
            for name in names:
                if path := fetch(name, online=True, **bar):
                    check_hash(path, progress, owner)
                    return path
    wanted = f"revision {revision} of {repository}" if revision else repository
    failed = (" and could not be downloaded (no network, or offline): connect once, or" if download
              else ": start the node once with a network, or")
    raise WeightsError(f"{owner}.weights: {wanted} is not in the cache{failed} copy {names[0]} from {page} into a "
                       f"folder and set {owner}.weights to it")


def check_hash(path: Path, progress: Progress | None = None, owner: str = "vggt") -> str:
    """Compare a file in the Hugging Face cache with the SHA-256 that the hub has given for it, which is its real name.

    Returns:
        The hash; empty if none is known, as for a file in another folder.

    Raises:
        WeightsError: they differ.

    """
    blob = path.resolve()
    expected = blob.name
    if blob.parent.name != "blobs" or not re.fullmatch("[0-9a-f]{64}", expected):
        return ""
    found, size, done = hashlib.sha256(), blob.stat().st_size, 0
    with blob.open("rb") as file:
        while block := file.read(1 << 24):
            found.update(block)
            done += len(block)
            if progress is not None:
                progress(f"comparing the weights with their hash, {100 * done / size:.0f} %")
    if found.hexdigest() != expected:
        raise WeightsError(f"{owner}.weights: {path} is damaged: its SHA-256 is {found.hexdigest()} and not "
                           f"{expected}, with {size} bytes; delete {blob} and download it again")
    return expected


def _progress_bar(progress: Progress, canceled: list[BaseException]) -> type[tqdm]:
    """Return a progress bar class that also calls `progress`, and adds what that raises to `canceled`."""
    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            try:
                progress(f"downloading the weights, {self.n / 1e9:.2f} of {(self.total or 0) / 1e9:.2f} GB")
            except BaseException as error:
                canceled.append(error)
                raise
            return shown

    return Bar
