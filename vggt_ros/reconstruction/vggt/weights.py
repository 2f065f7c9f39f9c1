"""Find, download, check and load the weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from vggt_ros.reconstruction.vggt.network import Network
from vggt_ros.reconstruction.vggt.sizes import PUBLISHED, Sizes

FILE_NAMES = ("model.safetensors", "model.pt", "vggt_1B_commercial.pt")
LICENSE = ("The weights of VGGT-1B are for non-commercial use only; those of VGGT-1B-Commercial are given on "
           "application and exclude military use. Both licenses are Meta's: read them on the model's page.")
HEAD_OF_OUTPUT = {"points": "point_head", "tracks": "track_head", "depth": "depth_head", "cameras": "camera_head"}
log = logging.getLogger(__name__)
_license_logged: set[str] = set()


class WeightsError(RuntimeError):
    """The weights are not available or do not fit the network; the text gives the cure."""


def tensor_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a network's state dict."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in Network(sizes).state_dict().items()}


def storage_dtype(name: str, shape: tuple[int, ...], storage: torch.dtype) -> torch.dtype:
    """Return the type in which a tensor is stored: `storage` for the matrices of the aggregator, else float32."""
    matrix = name.startswith("aggregator.") and name.endswith(".weight") and len(shape) == 2
    return storage if matrix else torch.float32


def read_sizes(config: Path) -> Sizes:
    """Return the sizes in a `config.json`, the published ones if the file does not exist; raises WeightsError."""
    try:
        return Sizes.load(config) if config.is_file() else PUBLISHED
    except (ValueError, TypeError) as error:
        raise WeightsError(f"vggt.weights: {config} does not contain valid network sizes: {error}") from error


def find(source: str, download: bool = True, cache: Path | None = None,
         progress: Callable[[str], None] | None = None) -> Path:
    """Return the path of the weights file.

    Args:
        source: a `.safetensors` or `.pt` file, a folder that contains one, or a Hugging Face repository.
        download: whether to download; False uses only files on disk.
        cache: folder of the Hugging Face cache; None for the default.
        progress: called with the download progress; an exception that it raises ends the download.

    Raises:
        WeightsError: no weights file was found.

    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix not in (".safetensors", ".pt"):
            raise WeightsError(f"vggt.weights: {path} is neither a .safetensors nor a .pt file")
        return path
    if path.is_dir():
        for name in FILE_NAMES:
            if (path / name).is_file():
                return path / name
        raise WeightsError(f"vggt.weights: the folder {path} contains none of {', '.join(FILE_NAMES)}")
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise WeightsError(f"vggt.weights: {source} does not exist, and is not a Hugging Face repository (owner/name)")
    return _find_in_hub(source, download, cache, progress)


def _find_in_hub(repository: str, download: bool, cache: Path | None,
                 progress: Callable[[str], None] | None) -> Path:
    """Return the file in the Hugging Face cache, downloading it if necessary; raises WeightsError."""
    try:
        from huggingface_hub import errors as hub
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        raise WeightsError(f"vggt.weights: {repository} needs the package huggingface_hub; "
                           "pip install huggingface_hub safetensors, or set vggt.weights to a folder") from error
    page = f"https://huggingface.co/{repository}"

    def fetch(name: str, online: bool, **bar: Any) -> Path | None:
        """Return a file of the repository, None if it does not exist; raises WeightsError, LocalEntryNotFoundError."""
        try:
            return Path(hf_hub_download(repository, name, cache_dir=cache, local_files_only=not online, **bar))
        except hub.GatedRepoError as error:
            raise WeightsError(f"vggt.weights: {repository} is gated: apply at {page}, then run `hf auth login` or "
                               "set HF_TOKEN") from error
        except hub.RepositoryNotFoundError as error:
            raise WeightsError(f"vggt.weights: there is no {page}, or it is private: check the name, or run "
                               "`hf auth login`") from error
        except hub.LocalEntryNotFoundError:  # not cached, and downloading is disabled or there is no network
            if online:
                raise
            return None
        except hub.EntryNotFoundError:
            return None
        except (hub.HfHubHTTPError, OSError) as error:
            raise WeightsError(f"vggt.weights: {repository} could not be downloaded: {error}") from error

    for name in FILE_NAMES:  # cached files first: a missing network may be slow to fail
        if path := fetch(name, online=False):
            return path
    if download:
        bar: dict[str, Any] = {"tqdm_class": _progress_bar(progress)} if progress is not None else {}
        with suppress(hub.LocalEntryNotFoundError):
            fetch("config.json", online=True)  # defines sizes other than the published ones
            for name in FILE_NAMES:
                if path := fetch(name, online=True, **bar):
                    return path
    raise WeightsError(f"vggt.weights: {repository} is not in the cache and could not be downloaded (no network, or "
                       f"offline): connect once, or copy {FILE_NAMES[0]} from {page} into a folder and set "
                       "vggt.weights to it")


def _progress_bar(progress: Callable[[str], None]) -> type[tqdm]:
    """Return a progress bar class that also calls `progress`."""
    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            progress(f"downloading the weights, {self.n / 1e9:.2f} of {(self.total or 0) / 1e9:.2f} GB")
            return shown

    return Bar


@contextmanager
def _open_tensors(path: Path) -> Iterator[tuple[Collection[str], Callable[[str], Tensor]]]:
    """Yield the names in a file and a function that reads one tensor; never unpickles code.

    Raises:
        WeightsError: the file is damaged.

    """
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                yield list(file.keys()), file.get_tensor
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            state = state.get("model", state) if isinstance(state, Mapping) else state
            if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
                raise WeightsError(f"vggt.weights: {path} is not a state dict")
            yield list(state), state.__getitem__
    except WeightsError:
        raise
    except Exception as error:  # the libraries raise various types for damaged files
        raise WeightsError(f"vggt.weights: {path} cannot be read ({type(error).__name__}: {error}); it may be "
                           "truncated: delete it and download it again") from error


def check_tensors(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Compare names and shapes; raises WeightsError that names the first missing, unknown and misshaped tensor."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    misshaped = [name for name in expected if name in found and found[name] != expected[name]]
    problems = [f"{len(names)} {what}, first {names[0]}" for what, names in
                (("missing", missing), ("not known", extra), ("of another shape", misshaped)) if names]
    if misshaped:
        problems[-1] += f" ({found[misshaped[0]]} instead of {expected[misshaped[0]]})"
    if problems:
        raise WeightsError(f"vggt.weights: {path} is not VGGT of these sizes: tensors {'; '.join(problems)}. Use the "
                           "published file, or put a config.json with its sizes into the same folder")


def unused_prefixes(outputs: Collection[str]) -> tuple[str, ...]:
    """Return the prefixes of the tensors of the heads that are not needed for the given outputs."""
    return tuple(f"{head}." for output, head in HEAD_OF_OUTPUT.items() if output not in outputs)


def drop_heads(network: Network, outputs: Collection[str]) -> None:
    """Remove from a network the heads that are not needed for the given outputs."""
    for output, head in HEAD_OF_OUTPUT.items():
        if output not in outputs:
            delattr(network, head)


def load(path: Path, device: torch.device, storage: torch.dtype = torch.float32,
         outputs: Collection[str] = ("cameras", "depth"), progress: Callable[[float], None] | None = None) -> Network:
    """Return the network with its weights on `device`; heads that `outputs` does not need are not loaded.

    Args:
        path: the weights file; a `config.json` in the same folder defines sizes other than the published ones.
        device: the device to load to.
        storage: type of the matrices of the aggregator; everything else stays in float32.
        outputs: as in `Network.decode`.
        progress: called with the fraction done.

    Raises:
        WeightsError: the file is damaged or does not have these sizes.

    """
    if not _license_logged:  # once, at the first load
        _license_logged.add(LICENSE)
        log.warning(LICENSE)
    with torch.device("meta"):
        network = Network(read_sizes(path.parent / "config.json"))
    unused = unused_prefixes(outputs)
    state = {}
    with _open_tensors(path) as (names, read):
        expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        tensors = {}
        for name in names:
            tensors[name] = tuple(read(name).shape)
        check_tensors(tensors, expected, path)
        for number, name in enumerate(expected):
            if not name.startswith(unused):
                state[name] = read(name).to(device, storage_dtype(name, expected[name], storage), copy=True)
            if progress is not None and number % 50 == 0:
                progress(number / len(expected))
    drop_heads(network, outputs)
    network.load_state_dict(state, strict=True, assign=True)
    return network.requires_grad_(False)
