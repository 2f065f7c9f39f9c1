"""What a GPU would do, staged on a CPU: errors as torch raises them, memory of the system, architectures."""

import contextlib
import functools
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from paths import ROOT, SUPPORT

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

from staged_gpu import stage_gpu
from tiny_vggt import CPU, TINY, tiny_config, tiny_state, tiny_vggt, tiny_window, write_weights

from vggt_ros.config import Config
from vggt_ros.reconstruction import create_reconstructor
from vggt_ros.reconstruction.base import ReconstructionRefused, ReconstructorLost
from vggt_ros.reconstruction.vggt.checkpoints import weights
from vggt_ros.reconstruction.vggt.checkpoints.weight_files import WeightsError
from vggt_ros.reconstruction.vggt.device_errors import DeviceUnsuitable, is_lost, is_out_of_memory, is_unsupported
from vggt_ros.reconstruction.vggt.reconstructor import Vggt
from vggt_ros.reconstruction.vggt.runtime import availability, memory
from vggt_ros.reconstruction.vggt.runtime.inference import Inference
from vggt_ros.settings import ConfigError

ASYNCHRONOUS = ("\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below "
                "might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1")
ACCELERATOR_ERROR = getattr(torch, "AcceleratorError", RuntimeError)
OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 7.79 GiB"),
    ACCELERATOR_ERROR("CUDA error: out of memory" + ASYNCHRONOUS),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/opt/pytorch/c10/cuda/CUDACachingAllocator.cpp":995, '
                 "please report a bug to PyTorch. "),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                 "to allocate 5000000000 bytes. Error code 12 (Cannot allocate memory)"),
    MemoryError(),
]
LOST = [ACCELERATOR_ERROR(f"CUDA error: {what}{ASYNCHRONOUS}") for what in (
    "an illegal memory access was encountered", "device-side assert triggered", "unspecified launch failure",
    "uncorrectable ECC error encountered", "unknown error")]
UNSUPPORTED = ACCELERATOR_ERROR("CUDA error: no kernel image is available for execution on the device" + ASYNCHRONOUS)


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder)
    return folder


@pytest.mark.parametrize("error", [*OUT_OF_MEMORY, *LOST, UNSUPPORTED, RuntimeError("shape '[2]' is invalid"),
                                   ValueError("out of memory is a title")], ids=lambda error: str(error)[:50])
def test_every_error_has_one_meaning(error):
    found = [is_out_of_memory(error), is_lost(error), is_unsupported(error)]
    assert found == [error in OUT_OF_MEMORY, error in LOST, error is UNSUPPORTED]


@pytest.mark.parametrize("error", [OUT_OF_MEMORY[1], OUT_OF_MEMORY[5]], ids=("CUDA", "Tegra"))
def test_a_window_is_split_at_any_form_of_out_of_memory(folder, monkeypatch, error):
    """The network fails for more than four images, with an error as torch raises it."""
    vggt = Vggt(tiny_config(folder).replace({"windows.size": 6, "windows.overlap": 2}))
    vggt.load()
    real, tried = vggt.inference.run, []

    def run(keyframes):
        tried.append([keyframe.id for keyframe in keyframes])
        if len(keyframes) > 4:
            raise error
        return real(keyframes)

    monkeypatch.setattr(vggt.inference, "run", run)
    with contextlib.suppress(ReconstructionRefused):  # generated weights make no geometry: the parts may not fit
        vggt.reconstruct(tiny_window(tuple(range(6))))
    assert tried == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3], [2, 3, 4, 5]]
    assert "more than 4 images: memory ran out on cpu" in vggt.status_values["split"]


def test_memory_that_is_too_small_while_loading_is_not_a_truncated_file(folder, monkeypatch):
    """Copying to the device fails: the error names memory and the cure, and nothing stays allocated."""
    def fail(tensor, *arguments, **options):
        raise OUT_OF_MEMORY[0]

    monkeypatch.setattr(torch.Tensor, "to", fail)
    with pytest.raises(DeviceUnsuitable, match=r"memory ran out on cpu while the weights were loaded .*CUDA out of"):
        tiny_vggt(folder)
    with pytest.raises(ConfigError, match="memory ran out"):
        create_reconstructor(tiny_config(folder).replace({"reconstructor": "vggt"}))


LIMITED = """
import resource, sys
sys.path[:0] = sys.argv[2:]
import torch
torch.set_num_threads(1)
from pathlib import Path
from tiny_vggt import CPU, Vggt, tiny_config
from vggt_ros.reconstruction.vggt.checkpoints import weights
from vggt_ros.reconstruction.vggt.runtime import memory
from vggt_ros.reconstruction.vggt.device_errors import DeviceUnsuitable
from vggt_ros.reconstruction.vggt.model.sizes import SMALL
folder = Path(sys.argv[1])
weights.load(folder / "model.safetensors", CPU)  # loads the libraries
size = memory.weight_bytes(SMALL, torch.float32, ("cameras", "depth"))
def limit(room):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (int(pages * resource.getpagesize() + room), resource.RLIM_INFINITY))
file = (folder / "model.safetensors").stat().st_size  # in float16: mapping it twice needs less
limit(file + 1.3 * size)
for _ in range(3):  # configure, cleanup, configure on a device that is just large enough
    vggt = Vggt(tiny_config(folder))
    vggt.load()
    vggt.close()
    print("LOADED")
limit(file + 0.8 * size)
try:
    Vggt(tiny_config(folder)).load()
except DeviceUnsuitable as error:
    print("REFUSED", error)
"""


def test_loading_again_after_close_needs_no_more_memory_and_too_little_is_named(tmp_path):
    """With real allocations, which the system refuses beyond the file and 1.3 times the weights."""
    from safetensors.torch import save_file

    from vggt_ros.reconstruction.vggt.checkpoints import rule
    from vggt_ros.reconstruction.vggt.model.sizes import SMALL

    SMALL.save(tmp_path / "config.json")
    unused = weights.unused_prefixes(("cameras", "depth"))
    state = {name: torch.from_numpy(value).half() for name, value in rule.weights(SMALL, 0)
             if not name.startswith(unused)}
    save_file(state, tmp_path / "model.safetensors")
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path), str(ROOT), str(SUPPORT)], text=True,
                          capture_output=True, timeout=300, env=environment)
    assert done.stdout.count("LOADED") == 3, done.stdout + done.stderr
    assert "REFUSED vggt: memory ran out on cpu while the weights were loaded" in done.stdout, done.stdout + done.stderr


def test_what_ends_the_loading_is_raised_as_it_is(folder):
    """A shutdown is not a damaged file."""
    def stop(done):
        raise RuntimeError("closed while loading")

    with pytest.raises(RuntimeError, match=r"^closed while loading$"):
        weights.load(folder / "model.safetensors", CPU, progress=stop)
    torch.save(tiny_state(), folder / "model.pt")
    with pytest.raises(RuntimeError, match=r"^closed while loading$"):
        weights.load(folder / "model.pt", CPU, progress=stop)


def test_a_file_that_may_not_be_read_is_not_called_truncated(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("safetensors.safe_open", refuse)
    with pytest.raises(WeightsError, match="Permission denied") as error:
        weights.load(folder / "model.safetensors", CPU)
    assert "truncated" not in str(error.value)


# A GPU, staged: torch answers as it does there, and computes on the CPU.

@pytest.fixture(name="gpu")
def _gpu(monkeypatch):
    """Return a function that stages what torch says of a GPU."""
    return functools.partial(stage_gpu, monkeypatch)


def test_memory_of_an_integrated_gpu_is_what_the_system_can_give(gpu, tmp_path, monkeypatch):
    """CUDA counts the page cache as used, MemAvailable does not; what the allocator holds is free, too."""
    (tmp_path / "meminfo").write_text("MemTotal: 7802000 kB\nMemFree: 200000 kB\nMemAvailable: 6000000 kB\n")
    assert memory.system_available(tmp_path / "meminfo") == 6000000 * 1024
    assert memory.system_available(tmp_path / "none") == np.inf
    monkeypatch.setattr(memory, "system_available", lambda: 6e9)
    assert memory.free_bytes(gpu(free=2e8, held=1e9, integrated=True)) == pytest.approx(0.9 * 7e9)
    assert memory.free_bytes(gpu(free=2e8, held=1e9)) == pytest.approx(0.9 * 1.2e9)
    assert memory.available_bytes(gpu(free=5e9), 3.0) == 3e9
    assert memory.free_bytes(CPU) == 6e9


def test_the_page_cache_of_the_weights_is_released(folder):
    """Counted by `fincore`: no page of the file is in the cache afterwards."""
    path = folder / "model.safetensors"

    def cached():
        done = subprocess.run(["fincore", "--bytes", "--raw", "--noheadings", "--output", "RES", path],
                              capture_output=True, text=True)
        return int(done.stdout)

    try:
        path.read_bytes()
        if cached() == 0:
            pytest.skip("this file system does not use the page cache")
    except FileNotFoundError:
        pytest.skip("there is no fincore (util-linux)")
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what was written just now has to reach the disk first
    weights.load(path, CPU)
    from vggt_ros.reconstruction.vggt.checkpoints.tensor_file import release_page_cache
    release_page_cache(path)
    assert cached() < 0.1 * path.stat().st_size


@pytest.mark.parametrize(("built_for", "capability", "expected"), [
    (("sm_80", "sm_90"), (8, 0), True), (("sm_80", "sm_90"), (8, 6), True), (("sm_80", "sm_90"), (12, 0), False),
    (("sm_80", "compute_90"), (12, 0), True), (("sm_86",), (8, 0), False), (("sm_90a",), (9, 0), True),
    (("sm_100a",), (10, 3), False), (("sm_75",), (6, 1), False), (("compute_90",), (8, 7), False)])
def test_architectures(built_for, capability, expected):
    assert availability.supports(list(built_for), capability) is expected


def auto(folder):
    """Return what `auto` selects with the weights on disk."""
    return create_reconstructor(Config().replace({"vggt.weights": str(folder)}))


def test_auto_falls_back_where_the_gpu_is_too_small_or_not_supported_and_says_why(folder, gpu, caplog):
    gpu(free=1e6)
    reconstructor, reason = auto(folder)
    assert reconstructor.name == "multiview"
    assert "because vggt: two images of 518x392 need about" in reason and "lower vggt.width" in reason
    assert any("another one is used instead" in record.message for record in caplog.records)
    gpu(capability=(6, 1), built_for=("sm_80", "sm_90"))
    reconstructor, reason = auto(folder)
    assert reconstructor.name == "multiview" and "not for this GPU of compute capability 6.1" in reason
    with pytest.raises(ConfigError, match=r"compute capability 6\.1"):
        create_reconstructor(Config().replace({"reconstructor": "vggt", "vggt.weights": str(folder)}))


def test_auto_falls_back_where_a_first_window_fails(folder, gpu, monkeypatch):
    """As a GPU does whose architecture the list does not show to be missing."""
    gpu()

    def fail(*_):
        raise UNSUPPORTED

    monkeypatch.setattr(weights, "load", lambda *_: SimpleNamespace(parameters=list, sizes=TINY))
    monkeypatch.setattr(Inference, "set_network", lambda self, network: setattr(self, "network", network))
    monkeypatch.setattr(Inference, "run", fail)
    reconstructor, reason = auto(folder)
    assert reconstructor.name == "multiview" and "does not run on this GPU" in reason and "install a build" in reason


def test_without_any_reconstructor_all_reasons_are_named(folder, gpu, monkeypatch):
    gpu(free=1e6)
    monkeypatch.setitem(sys.modules, "vggt_ros.reconstruction.multiview.reconstructor", None)
    with pytest.raises(ConfigError, match=r"vggt is not used, because vggt: two .*; multiview is not used, because"):
        auto(folder)


def test_a_lost_context_is_not_a_lost_window(folder, monkeypatch):
    """Whatever error CUDA gives then, the reconstructor says that it is lost, and is not asked again."""
    vggt = tiny_vggt(folder)
    for error in LOST:
        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(vggt.inference, "run", fail)
        with pytest.raises(ReconstructorLost, match="context of the GPU is lost"):
            vggt.reconstruct(tiny_window())


def test_close_frees_the_network_and_the_tables(folder, caplog):
    """No tensor of it is alive afterwards; a context that is lost cannot stop it."""
    import gc
    import weakref

    vggt = tiny_vggt(folder)
    vggt.reconstruct(tiny_window())
    network = weakref.ref(vggt.inference.network)
    tensors = [weakref.ref(value) for value in vggt.inference.network.parameters()]
    gc.collect()

    def alive():
        # Not those of the compiler, which have no memory.
        return sum(one.nbytes for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter))

    before = alive()
    size = sum(value.nbytes for value in vggt.inference.network.parameters())
    vggt.close()
    assert network() is None and not any(one() is not None for one in tensors)
    assert before - alive() > size
    with caplog.at_level(logging.WARNING, "vggt_ros"):
        vggt.inference.clear_cache = lambda: (_ for _ in ()).throw(LOST[0])
        vggt.close()
    assert "could not be freed: CUDA error: an illegal memory access" in caplog.text
