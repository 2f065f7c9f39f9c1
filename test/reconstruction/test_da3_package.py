"""Depth Anything 3 held against the package's own code: shapes, preprocessing, conventions, known poses."""

import importlib.util

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytest.importorskip("depth_anything_3", reason="depth-anything-3 is not installed")
pytest.importorskip("omegaconf", reason="omegaconf is not installed")

from da3_api import exact_api, load_api
from tiny_da3 import da3_config, write_da3

from vggt_ros.geometry.camera import Camera
from vggt_ros.geometry.poses import inverse, pose, so3_exp, umeyama
from vggt_ros.reconstruction.da3 import network, rule
from vggt_ros.reconstruction.da3.image_size import network_size
from vggt_ros.reconstruction.da3.known_poses import in_network_units
from vggt_ros.reconstruction.da3.reconstructor import Da3
from vggt_ros.reconstruction.da3.sizes import PUBLISHED, recognized
from vggt_ros.reconstruction.vggt.checkpoints.rule import images
from vggt_ros.windows.keyframe import Keyframe, Window

WIDTH, HEIGHT, COUNT = 84, 56, 4
FOCAL = 70.0


@pytest.fixture(scope="module", name="api")
def _api():
    """SMALL as the package builds it, with generated weights."""
    made = exact_api("da3-small")
    state = dict(rule.weights(PUBLISHED["SMALL"]))
    rule.agree_on_one_camera(state, WIDTH, HEIGHT)
    made.model.load_state_dict(state, strict=True)
    return made


@pytest.fixture(scope="module", name="folder")
def _folder(api, tmp_path_factory):
    """The weights as the package saves them: of tensors that are one, under several names, there is only one."""
    folder = tmp_path_factory.mktemp("da3")
    safetensors.save_model(api, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_name": "da3-small", "config": {"__object__": {"path": "os"}}}')
    return folder


@pytest.fixture(scope="module", name="plain")
def _plain(folder):
    return loaded(folder)


def pixels(count=COUNT):
    return np.ascontiguousarray((255 * images(count, HEIGHT, WIDTH)).astype(np.uint8).transpose(0, 2, 3, 1))


def window(calibrated=True, tracked=None, shared=(), first=0):
    k = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return Window(first, tuple(Keyframe(first + i, i, image, k, calibrated,
                                        map_camera=None if tracked is None else tracked[i])
                               for i, image in enumerate(pixels())), shared)


def loaded(folder, **changes):
    made = Da3(da3_config(folder, **changes))
    made.load()
    return made


def camera_world(prediction):
    """Return the poses of a prediction of the package as 4x4."""
    return np.array([pose(one[:, :3], one[:, 3]) for one in prediction.extrinsics.astype(np.float64)])


def test_the_published_networks_have_the_shapes_of_the_package(api):
    """Of SMALL every tensor; of the others what their configuration says, and every tensor of their transformer."""
    import depth_anything_3.model.dinov2.vision_transformer as package
    from depth_anything_3.cfg import load_config
    from depth_anything_3.registry import MODEL_REGISTRY

    for name, sizes in PUBLISHED.items():
        config = load_config(MODEL_REGISTRY[f"da3-{name.lower()}"])
        encoder = {"vits": package.vit_small, "vitb": package.vit_base, "vitl": package.vit_large,
                   "vitg": package.vit_giant2}[config.net.name]
        with torch.device("meta"):
            ours = network.build(sizes)
            theirs = encoder(patch_size=14, img_size=518, ffn_layer="swiglufused" if name == "GIANT" else "mlp",
                             alt_start=config.net.alt_start, qknorm_start=config.net.qknorm_start,
                             rope_start=config.net.rope_start, cat_token=config.net.cat_token, drop_path_uniform=True)
        shapes = {key: tuple(value.shape) for key, value in ours.state_dict().items()}
        expected = {f"backbone.pretrained.{key}": tuple(value.shape) for key, value in theirs.state_dict().items()}
        assert {key: shape for key, shape in shapes.items() if key.startswith("backbone")} == expected
        assert theirs.num_heads == sizes.heads and recognized(shapes) == name
        assert (tuple(config.net.out_layers), config.head.features, tuple(config.head.out_channels)) == (
            sizes.out_layers, sizes.features, sizes.out_channels)
        assert config.head.dim_in == config.cam_dec.dim_in == 2 * sizes.embed_dim
        assert config.cam_enc.dim_out == sizes.embed_dim
    small = {key: tuple(value.shape) for key, value in api.model.state_dict().items()}
    with torch.device("meta"):
        assert {key: tuple(value.shape) for key, value in
                network.build(PUBLISHED["SMALL"]).state_dict().items()} == small


@pytest.mark.parametrize("reference", ["saddle_balanced", "first"])
def test_a_window_is_what_the_package_predicts(api, folder, plain, reference):
    """From a file and images to poses, intrinsics, depth and confidence: the same numbers, in our conventions."""
    geometry = loaded(folder, reference=reference).reconstruct(window(calibrated=False))
    expected = api.inference(list(pixels()), process_res=WIDTH, ref_view_strategy=reference)
    assert np.abs(expected.depth / np.median(expected.depth) - 1).max() > 0.05, "depth is flat"
    np.testing.assert_allclose(geometry.depth, expected.depth, rtol=2e-4)
    poses = camera_world(expected)
    np.testing.assert_allclose(geometry.window_camera, poses[0] @ np.linalg.inv(poses), atol=2e-5)
    assert np.linalg.norm(geometry.window_camera[1:, :3, 3], axis=1).min() > 1e-3, "all cameras are in one place"
    np.testing.assert_allclose(geometry.intrinsics, expected.intrinsics, rtol=1e-4)
    order = np.argsort(expected.conf.ravel())
    assert np.diff(geometry.confidence.ravel()[order]).min() > -2.1 / 255 and geometry.confidence.max() == 1
    known = plain.reconstruct(window())
    np.testing.assert_array_equal(known.intrinsics[0], window().keyframes[0].intrinsics)
    assert known.report["focal_predicted_ratio"] == pytest.approx(WIDTH / FOCAL, rel=1e-3)


def test_points_are_where_the_package_puts_them(api, plain):
    """Unprojected by the package with its poses, and by ours: the same up to the choice of the first camera."""
    from depth_anything_3.utils.geometry import unproject_depth

    from vggt_ros.reconstruction.vggt.output.decoding import unproject

    geometry = plain.reconstruct(window(calibrated=False))
    expected = api.inference(list(pixels()), process_res=WIDTH)
    poses = camera_world(expected)
    world_camera = torch.from_numpy(np.linalg.inv(poses)).float()[None]
    theirs = unproject_depth(torch.from_numpy(expected.depth)[None, ..., None],
                             torch.from_numpy(expected.intrinsics)[None], world_camera)[0].numpy()
    ours = unproject(geometry.depth, geometry.window_camera, geometry.intrinsics)
    np.testing.assert_allclose(ours, theirs @ poses[0, :3, :3].T + poses[0, :3, 3], atol=5e-4)


def test_the_rays_that_are_left_out_change_nothing(api):
    """The network without them predicts the same, with the depth head for one image at a time too."""
    with torch.inference_mode():
        whole = network.predict(api.model, torch.from_numpy(images(COUNT, HEIGHT, WIDTH)))
        part = network.build(PUBLISHED["SMALL"])
        part.load_state_dict(api.model.state_dict())
        network.drop_unused(part, known_poses=False)
        for chunk in (8, 1):
            part.head.chunk = chunk
            for name, value in network.predict(part, torch.from_numpy(images(COUNT, HEIGHT, WIDTH))).items():
                torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-5)


def motion(count=COUNT):
    """Return poses `map_camera` that have nothing to do with what generated weights predict."""
    return np.array([pose(so3_exp(np.array([0.02, 0.1, -0.03]) * i), [0.3 * i, 0.02 * i * i, -0.1 * i])
                     for i in range(count)])


def test_known_poses_reach_the_network_as_the_package_gives_them(api, folder, plain):
    """The package returns the poses that it was given, and depth in their unit; we take what the network predicts.

    The poses are made large for the package, which leaves small ones as small as they are.
    """
    made = loaded(folder, known_poses="tracked")
    made.reconstruct(window(tracked=motion()))
    assert made.status_values["known poses"] == "given in 0 of 1 windows; last not: there is no window before"
    before = made._before
    now = window(tracked=motion(), shared=(0, 1, 2, 3))
    geometry = made.reconstruct(now)
    assert geometry.report["poses_given"] == 1
    assert made.status_values["known poses"].startswith("given in 1 of 2 windows")
    given = np.array([inverse(one) for one in before.window_camera])
    intrinsics = np.array([keyframe.intrinsics for keyframe in now.keyframes])
    batch, poses, matrices = api._prepare_model_inputs(*api._preprocess_inputs(
        list(pixels()), _larger(given, 50.0), intrinsics, process_res=WIDTH))
    raw = api._convert_to_prediction(api.forward(batch, api._normalize_extrinsics(poses), matrices, []))
    poses = camera_world(raw)
    np.testing.assert_allclose(geometry.window_camera, poses[0] @ np.linalg.inv(poses), atol=2e-5)
    np.testing.assert_allclose(geometry.depth, raw.depth, rtol=2e-4)
    prediction = api.inference(list(pixels()), _larger(given, 50.0), intrinsics, process_res=WIDTH)
    ratio = raw.depth / prediction.depth
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-3)
    without = plain.reconstruct(window())
    assert np.abs(without.depth / geometry.depth - 1).max() > 0.01, "known poses changed nothing"


def _larger(camera_first, factor):
    poses = camera_first.copy()
    poses[:, :3, 3] *= factor
    return poses


def test_the_unit_of_known_poses_is_that_of_the_package(api):
    """Away from the smallest unit of 0.1, below which the package leaves poses small."""
    poses = np.array([inverse(one) for one in motion(5)])
    theirs = api._normalize_extrinsics(torch.from_numpy(poses).float()[None])[0].numpy()
    np.testing.assert_allclose(in_network_units(motion(5)), theirs, atol=1e-5)
    moved = so3_exp(np.array([0.3, -0.2, 0.5]))
    world = np.array([one @ pose(moved, [1.0, 2, 3]) for one in poses])
    theirs = api._normalize_extrinsics(torch.from_numpy(world).float()[None])[0].numpy()
    np.testing.assert_allclose(in_network_units(motion(5)), theirs, atol=1e-5)


def test_the_stock_class_in_reduced_precision_agrees(api, plain, monkeypatch):
    """As users call it: it computes in float16 or bfloat16, and we are within its rounding."""
    monkeypatch.setattr(type(api), "forward", load_api().DepthAnything3.forward)
    expected = api.inference(list(pixels()), process_res=WIDTH)
    geometry = plain.reconstruct(window())
    assert np.median(np.abs(geometry.depth / expected.depth - 1)) < 0.02
    centers = np.linalg.inv(camera_world(expected))[:, :3, 3]
    error = umeyama(geometry.window_camera[:, :3, 3], centers).apply(geometry.window_camera[:, :3, 3]) - centers
    assert np.sqrt((error**2).sum(1).mean()) < 0.1 * np.sqrt(((centers - centers.mean(0))**2).sum(1).mean())


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080), (480, 640), (1241, 376), (1280, 720), (33, 21),
                                               (752, 480), (504, 504), (997, 13)])
def test_image_sizes_are_those_of_the_package(width, height):
    load_api()
    from depth_anything_3.utils.io.input_processor import InputProcessor

    processed, _, _ = InputProcessor()([np.zeros((height, width, 3), np.uint8)], num_workers=1)
    assert network_size(Camera.assumed(width, height, 60.0), 504) == tuple(processed.shape[:1:-1])


def test_only_what_inference_needs_is_imported():
    """Neither viewers nor encoders: another process imports the reconstructor and lists what it has."""
    import subprocess
    import sys

    code = ("import sys, vggt_ros.reconstruction.da3.reconstructor as r\n"
            "print(sorted({name.partition('.')[0] for name in sys.modules} & {'evo', 'moviepy', 'gradio', 'open3d',"
            " 'torchvision', 'xformers', 'gsplat', 'pycolmap', 'trimesh', 'imageio', 'fastapi', 'e3nn', 'plyfile'}))")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]" and "Warning" not in answer.stderr
    assert importlib.util.find_spec("einops") is not None


def test_a_tiny_network_needs_its_sizes(tmp_path):
    """In a file with the names of the package, with and without `model.` before them."""
    results = []
    for prefix in ("model.", ""):
        write_da3(tmp_path / (prefix or "plain"), prefix=prefix)
        made = loaded(tmp_path / (prefix or "plain"))
        results.append(made.reconstruct(window()).depth)
        assert made.kind == "custom"
    np.testing.assert_array_equal(*results)
