"""`parity --recorded`: real weights against recorded runs, staged with weights that are generated."""

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

from data_folder import DATA
from tiny_vggt import tiny_state, write_weights

from vggt_ros.cli.parity import main
from vggt_ros.config import Config
from vggt_ros.reconstruction.vggt.checkpoints import weights
from vggt_ros.reconstruction.vggt.comparison.padding import padded_from_image
from vggt_ros.reconstruction.vggt.comparison.recorded_parity import prepare_images, run_on_images
from vggt_ros.reconstruction.vggt.comparison.recorded_run import SIDE, SPREAD, RecordedRun, differences
from vggt_ros.reconstruction.vggt.runtime.inference import Inference
from vggt_ros.reconstruction.vggt.settings import VggtConfig

RECORDED = DATA.parent / "vggt_recorded"
recorded_data = pytest.mark.skipif(not RECORDED.is_dir(), reason=f"{RECORDED} is not there")


@recorded_data
def test_the_spread_is_that_of_the_two_runs_of_the_kitchen():
    runs = [RecordedRun.load(RECORDED / "kitchen" / f"run_{name}.npz") for name in "ab"]
    found = differences(*runs)
    assert found.keys() == SPREAD.keys()
    for item, value in SPREAD.items():
        assert found[item] == pytest.approx(value, rel=0.02), item
    assert max(differences(runs[0], runs[0]).values()) < 1e-3  # arccos near 1


@recorded_data
def test_differences_are_found_and_gauge_is_not_one():
    """Another world frame and scale of a run are no difference; other rotations, focal lengths and depths are."""
    run = RecordedRun.load(RECORDED / "kitchen" / "run_a.npz")
    world = np.eye(4)
    world[:3, :3] = cv2.Rodrigues(np.array([0.3, -0.2, 0.5]))[0]
    world[:3, 3] = (1, 2, 3)
    moved = run.extrinsic @ world
    moved[:, :, 3] *= 2.5
    same = RecordedRun(run.names, moved, run.intrinsic, run.frame, run.pixel, 2.5 * run.depth)
    assert max(differences(same, run).values()) < 1e-3
    wrong = RecordedRun(run.names, run.extrinsic, 1.02 * run.intrinsic, run.frame, run.pixel,
                        run.depth * (1 + 0.03 * (run.frame % 2)))
    found = differences(wrong, run)
    assert found["focal_percent"] == pytest.approx(2.0, abs=0.01) and found["scale_percent"] > 1.0
    assert found["rotations_deg"] < 1e-3


@recorded_data
@pytest.mark.parametrize("scene", ["kitchen", "room"])
def test_images_are_prepared_as_by_pillow(scene):
    """A second implementation of what the published demo does: Pillow's bicubic filter, then bilinear to 518."""
    pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    path = sorted((RECORDED / scene / "images").iterdir())[0]
    with pil.open(path) as image:
        image = image.convert("RGB")
        side = max(image.size)
        square = pil.new("RGB", (side, side))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        loaded = torch.from_numpy(np.asarray(square.resize((1024, 1024), pil.Resampling.BICUBIC)).copy())
    expected = torch.nn.functional.interpolate(loaded.permute(2, 0, 1)[None] / 255, (SIDE, SIDE), mode="bilinear",
                                               align_corners=False)[0]
    (ours,) = prepare_images([path])
    assert ours.shape == (3, SIDE, SIDE) and expected.max() > 0.5
    assert float((ours - expected).abs().mean()) < 0.5 / 255
    assert float((ours - expected).abs().max()) < 6 / 255  # decoders of JPEG differ


@pytest.mark.parametrize("size", [(779, 520), (520, 779), (640, 480)])
def test_prepared_images_are_where_the_matrix_says(size, tmp_path):
    """A blurred dot is found at its place, to a fraction of a pixel."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    at = np.array([0.7 * size[0], 0.4 * size[1]])
    dot = 250 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 18)
    cv2.imwrite(str(tmp_path / "dot.png"), np.repeat(dot[..., None], 3, 2))
    seen = prepare_images([tmp_path / "dot.png"])[0, 0].numpy()
    rows, columns = np.indices(seen.shape)
    found = np.array([(seen * columns).sum(), (seen * rows).sum()]) / seen.sum()
    np.testing.assert_allclose(found, (padded_from_image(*size) @ [*at, 1])[:2], atol=0.03)


@pytest.fixture(name="staged", scope="module")
def _staged(tmp_path_factory):
    """A folder of images with two recorded runs of a network, and the weights of this network and of another."""
    folder = tmp_path_factory.mktemp("recorded")
    write_weights(folder / "right")
    other = {name: value * 1.05 if name.startswith("camera_head") else value for name, value in tiny_state().items()}
    write_weights(folder / "wrong", other)
    (folder / "images").mkdir()
    texture = np.random.default_rng(0).integers(0, 255, (30, 60, 3)).astype(np.uint8)
    names = tuple(f"{number}.png" for number in range(3))
    for number, name in enumerate(names):
        shifted = cv2.resize(np.roll(texture, 3 * number, 1), (200, 100), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "images" / name), shifted)
    inference = Inference(Config().replace({"vggt.compile": "false"}).of(VggtConfig), torch.device("cpu"))
    inference.set_network(weights.load(folder / "right" / "model.safetensors", inference.device))
    pixel = np.random.default_rng(1).integers(0, SIDE, (300, 2))
    frame = np.arange(300) % 3
    for number, order in enumerate(((0, 1, 2), (0, 2, 1))):
        listed = tuple(names[i] for i in order)
        empty = RecordedRun(listed, np.zeros((3, 3, 4)), np.zeros((3, 3, 3)), frame, pixel, np.zeros(300))
        images = prepare_images([folder / "images" / name for name in listed])
        run_on_images(inference, images, empty).save(folder / f"run_{number}.npz")
    return folder


def test_weights_that_are_right_pass_and_others_fail(staged, capsys):
    arguments = ["--recorded", str(staged), "--device", "cpu", "--weights"]
    assert main([*arguments, str(staged / "right")]) == 0
    said = capsys.readouterr().out
    assert "passed" in said and {line.split()[0] for line in said.splitlines()[1:-1]} == SPREAD.keys()
    assert main([*arguments, str(staged / "wrong")]) == 1
    assert "FAILED: " in capsys.readouterr().out


def test_what_is_missing_is_named(staged, tmp_path, capsys):
    assert main(["--recorded", str(staged), "--device", "cpu", "--weights", str(tmp_path / "none.pt")]) == 1
    assert "none.pt" in capsys.readouterr().err
    assert main(["--recorded", str(tmp_path), "--device", "cpu", "--weights", str(staged / "right")]) == 1
    assert "contains no run_*.npz" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])
