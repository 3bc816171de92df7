"""Stages: a net prepared for cases of any size, its caller's net left alone."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from flare_lib.ct.labels import N_CLASSES, organ
from flare_lib.ct.preprocess import Preprocessing
from flare_lib.ct.volume import Volume
from flare_lib.evaluation.metrics import dice_scores
from flare_lib.inference.coarse_to_fine import segment
from flare_lib.inference.stages import NetStage, ResizablePredictor, SqueezedStage, load_stages
from flare_lib.machine.precision import Precision, choose_precision
from flare_lib.network.in_place import finest_in_place
from flare_lib.network.unet import UNet
from flare_lib.network.weights import TrainedNet, load_trained, packaged_weights, save_trained
from flare_lib.synthetic.phantom import phantom_case

PATCH = (8, 12, 16)


@pytest.fixture
def trained():
    torch.manual_seed(0)
    net = UNet(features_per_stage=(4, 6, 8), strides=((2, 2, 2), (1, 2, 2)), n_heads=2)
    return TrainedNet(net, Preprocessing((6.0, 5.0, 4.0)), PATCH, {})


def ct_of(shape_zyx, seed=0):
    rng = np.random.default_rng(seed)
    return Volume.from_array(rng.integers(-200, 300, shape_zyx).astype(np.int16), (7.0, 3.0, 2.5))


def test_a_stage_leaves_the_callers_net_as_it_is(trained):
    trained.net.train()
    stage = NetStage(trained)
    with torch.no_grad():
        next(stage.net.parameters()).zero_()
    assert trained.net.training
    assert next(trained.net.parameters()).any()
    assert not stage.net.training


def test_a_patch_is_given_the_softmax_of_the_finest_head(trained):
    patch = torch.randn(1, 1, *PATCH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = trained.net.eval()(patch)[0].softmax(dim=1)
    probabilities = NetStage(trained, precision="float32").predict_patch(patch)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(1, *PATCH), atol=1e-6, rtol=0)
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=0)


def test_a_stage_knows_the_extent_of_its_patch(trained):
    stage = NetStage(trained)
    expected = np.multiply(trained.patch_size, trained.preprocessing.spacing_zyx_mm)
    np.testing.assert_allclose(stage.patch_mm, expected)


def test_a_scaled_stage_shows_the_same_net_larger_bodies(trained):
    stage, ct = NetStage(trained), ct_of((14, 30, 40))
    larger = stage.scaled(1.25)
    spacing = (6.0 / 1.25, 5.0 / 1.25, 4.0 / 1.25)
    np.testing.assert_array_equal(larger.prepare(ct)[0], Preprocessing(spacing).apply(ct).array_zyx)
    assert larger.net is stage.net
    assert (stage.scale, larger.scale, larger.scaled(2).scale) == (1.0, 1.25, 2.5)
    assert stage.preprocessing == trained.preprocessing
    with pytest.raises(ValueError, match=r"^scale must be above 0, got 0$"):
        stage.scaled(0)


def test_a_nets_scales_are_its_stages_views(trained):
    stage = NetStage(replace(trained, scales=(1.0, 1.25)))
    own, larger = stage.views
    assert own is stage
    assert larger.preprocessing == stage.scaled(1.25).preprocessing
    assert stage.with_scales(1.0).views != stage.views
    assert [view.scale for view in stage.with_scales(1.0).views] == [1.0]
    assert [view.scale for view in stage.scaled(2.0).views] == [2.0, 2.5]
    [alone] = NetStage(trained).views
    assert alone.scale == 1.0


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_stage_for_larger_patches_has_the_same_net_and_leaves_the_stage_as_it_is(trained, engine):
    stage = NetStage(trained, precision="float32", engine=engine)
    assert stage.size_multiple == (2, 4, 4)
    larger = stage.with_patch((10, 16, 20))
    assert (stage.patch_size, larger.patch_size) == (PATCH, (10, 16, 20))
    assert larger.net is stage.net
    assert isinstance(larger, ResizablePredictor)
    patch = torch.randn(1, 1, 10, 16, 20, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = trained.net.eval()(patch)[0].softmax(dim=1)
    torch.testing.assert_close(larger.predict_patch(patch), expected, atol=1e-5, rtol=0)
    first = patch[..., : PATCH[0], : PATCH[1], : PATCH[2]]
    assert stage.predict_patch(first).shape == (1, 14, *PATCH)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_patches_lower_than_the_nets_own_are_computed_by_the_net_of_thin_scans(trained, engine):
    thin = replace(trained, net=copy.deepcopy(trained.net), patch_size=(4, 8, 8))
    with torch.no_grad():
        for parameter in thin.net.parameters():
            parameter.mul_(-0.7)
    stage = NetStage(trained, thin=thin, precision="float32", engine=engine).scaled(1.5)
    patch = torch.randn(1, 1, 10, 16, 20, generator=torch.Generator().manual_seed(1))
    for height, taught in ((4, thin), (PATCH[0], trained), (10, trained)):
        part, other = patch[:, :, :height], stage.with_patch((height, 16, 20))
        with torch.no_grad():
            expected = taught.net.eval()(part)[0].softmax(dim=1)
        torch.testing.assert_close(other.predict_patch(part), expected, atol=1e-5, rtol=0)
        assert (other.scale, other.preprocessing) == (stage.scale, stage.preprocessing)
        again = other.with_patch(stage.patch_size)
        assert (again.net, again.patch_size) == (stage.net, PATCH)
        assert other.with_patch((6, 16, 20)).net is stage.with_patch((4, 16, 20)).net  # one copy, however often


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("scales", {"scales": (1.0, 1.25)}),
        ("preprocessing", {"preprocessing": Preprocessing((6.0, 5.0, 4.5))}),
        ("strides", {"net": UNet(features_per_stage=(4, 6), strides=((2, 2, 2),), n_heads=1)}),
        (
            "number of classes",
            {"net": UNet(n_classes=5, features_per_stage=(4, 6, 8), strides=((2, 2, 2), (1, 2, 2)), n_heads=2)},
        ),
    ],
)
def test_a_net_of_thin_scans_that_would_see_something_else_is_refused(trained, what, changed):
    with pytest.raises(ValueError, match=f"^the net of thin scans must have the {what} .* of the fine one, got "):
        NetStage(trained, thin=replace(trained, **changed))


def test_openvino_gives_torchs_probabilities(trained):
    patch = torch.randn(1, 1, *PATCH, generator=torch.Generator().manual_seed(1))
    ours, theirs = (
        NetStage(trained, precision="float32", engine=engine).predict_patch(patch) for engine in ("torch", "openvino")
    )
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_a_stage_says_what_it_computes_in(trained):
    assert NetStage(trained, precision="float32").precision.name == "float32"
    assert NetStage(trained).precision == choose_precision(device=torch.device("cpu"))


@pytest.mark.parametrize(("name", "apart"), [("float32", 1e-5), ("float16", 3e-3), ("bfloat16", 2e-2)])
def test_a_stage_computes_in_its_precision(trained, name, apart):
    patch = torch.randn(1, 1, *PATCH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = trained.net.eval()(patch)[0].softmax(dim=1)
    found = NetStage(trained, precision=Precision(name, "a test")).predict_patch(patch)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= apart
    assert (name == "float32") == ((found - expected).abs().max() < 1e-5)


def rounded(net, dtype):
    """Round all weights, and what goes in and out of every layer, as a device does that has the format of its own."""
    for module in net.modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda _, inputs: tuple(x.to(dtype).float() for x in inputs))
            module.register_forward_hook(lambda _, inputs, output: output.to(dtype).float())
            for parameter in module.parameters():
                parameter.data = parameter.data.to(dtype).float()
    return net


@pytest.fixture(scope="module")
def coarse_patch():
    """The packaged coarse net, a patch of a phantom, and the labels that it finds there in float32."""
    packaged = load_trained(packaged_weights("coarse"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("flare_lib.synthetic.phantom._DRAWING_MM", 6.0)  # not 2.5: drawing takes longest
        ct, _ = phantom_case(0, spacing_zyx_mm=(8.0, 7.0, 6.0))
    stage = NetStage(packaged, precision="float32")
    image = stage.prepare(ct)
    patch = torch.full((1, 1, *packaged.patch_size), float(image.min()))
    z, y, x = (min(n, size) for n, size in zip(image.shape[1:], packaged.patch_size, strict=True))
    patch[0, :, :z, :y, :x] = image[:, :z, :y, :x]
    return packaged, patch, stage.predict_patch(patch)[0].argmax(dim=0).numpy()


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_the_packaged_nets_bear_short_formats(coarse_patch, name):
    packaged, patch, labels = coarse_patch
    with torch.inference_mode():
        logits = rounded(copy.deepcopy(packaged.net), getattr(torch, name)).finest(patch)
    dice = dice_scores(logits[0].argmax(dim=0).numpy(), labels)
    seen = np.unique(labels[labels > 0])
    assert len(seen) >= 10
    assert dice[seen - 1].mean() >= 0.99


@pytest.mark.parametrize("shape_zyx", [(9, 20, 30), (40, 17, 23)])
def test_a_squeezed_ct_is_one_patch_whatever_its_extent(trained, shape_zyx):
    image = SqueezedStage(trained).prepare(ct_of(shape_zyx))
    assert image.shape == (1, *PATCH)
    torch.testing.assert_close(image.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(image.std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)


def test_a_squeezed_ct_is_clipped_to_the_nets_window(trained):
    ct = ct_of((9, 20, 30))
    metal = Volume.from_array(ct.array_zyx * 40, ct.spacing_zyx_mm)
    clipped = Volume.from_array(metal.array_zyx.clip(-325, 325), ct.spacing_zyx_mm)
    squeezed = SqueezedStage(trained)
    assert torch.equal(squeezed.prepare(metal), squeezed.prepare(clipped))


def test_a_squeezed_ct_without_contrast_is_zero(trained):
    flat = Volume.from_array(np.full((9, 20, 30), 40, np.int16), (7.0, 3.0, 2.5))
    assert not SqueezedStage(trained).prepare(flat).any()


def test_stages_are_the_two_nets_of_a_folder(trained, tmp_path):
    for name in ("coarse", "fine"):
        with torch.no_grad():
            next(trained.net.parameters()).fill_(1 if name == "coarse" else 2)
        card = {"preprocessing": trained.preprocessing.to_dict(), "patch_size": PATCH}
        save_trained(tmp_path / name, trained.net, card)
    stages = load_stages(tmp_path, device="cpu")
    assert [float(next(stage.net.parameters()).detach().max()) for stage in stages] == [1, 2]
    assert all(stage.patch_size == PATCH for stage in stages)
    assert [stage.device for stage in stages] == [torch.device("cpu")] * 2
    assert [stage.precision for stage in stages] == [choose_precision(device=torch.device("cpu"))] * 2
    assert stages[1].with_patch((4, 12, 16)).net is stages[1].net
    fast = load_stages(tmp_path, device="cpu", precision="float32", engine="openvino")
    for stage, same in zip(fast, stages, strict=True):
        assert stage.precision.name == "float32"
        assert not isinstance(stage._finest, partial)
        assert (same._finest.func, same._finest.args) == (finest_in_place, (same.net,))
    with torch.no_grad():
        next(trained.net.parameters()).fill_(3)
    save_trained(tmp_path / "thin", trained.net, card)
    coarse, fine = load_stages(tmp_path, device="cpu")
    low = [stage.with_patch((4, 12, 16)).net for stage in (coarse, fine)]
    assert [float(next(net.parameters()).detach().max()) for net in (coarse.net, fine.net, *low)] == [1, 2, 1, 3]
    (tmp_path / "thin.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*thin\.json$"):
        load_stages(tmp_path, device="cpu")


@pytest.mark.parametrize("how", [{"engine": "steam"}, {"precision": "int3"}, {"device": "abacus"}])
def test_an_engine_precision_or_device_that_is_none_is_refused_before_anything_is_loaded(trained, tmp_path, how):
    ((name, value),) = how.items()
    with pytest.raises(ValueError, match=f"{name} must be .*got '?{value}"):
        load_stages(tmp_path / "none", **({"device": "cpu"} | how))
    if name != "device":
        with pytest.raises(ValueError, match=value):
            NetStage(trained, **how)


def test_a_device_whose_memory_is_full_is_a_memory_error(trained, monkeypatch):
    stage = NetStage(trained)

    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stage, "_finest", full)
    with pytest.raises(MemoryError):
        stage.predict_patch(torch.zeros(1, 1, *PATCH))


def test_the_packaged_nets_find_all_organs_of_a_phantom():
    ct, reference = phantom_case(40_000, spacing_zyx_mm=(6.0, 5.0, 4.5))
    small = Volume.from_array(ct.array_zyx, tuple(0.7 * s for s in ct.spacing_zyx_mm))  # a child, one patch a stage
    result = segment(small, *load_stages(device="cpu"))
    scores = dice_scores(result.label_map_zyx, reference.array_zyx)
    assert scores.mean() > 0.8, scores.round(2)
    assert scores.min() > 0.5, scores.round(2)


def test_the_packaged_nets_find_the_organs_of_a_thin_slab():
    ct, reference = phantom_case(40_000, spacing_zyx_mm=(6.0, 5.0, 4.5))
    z = int(np.argwhere(reference.array_zyx == organ("pancreas").id)[:, 0].mean())
    slab, there = ct.array_zyx[z - 4 : z + 4], reference.array_zyx[z - 4 : z + 4]
    small = Volume.from_array(slab, tuple(0.7 * s for s in ct.spacing_zyx_mm))  # 34 mm of a child
    scores = dice_scores(segment(small, *load_stages(device="cpu")).label_map_zyx, there)
    seen = scores[np.bincount(there.ravel(), minlength=N_CLASSES)[1:] > 20]
    assert len(seen) >= 8
    assert seen.mean() > 0.75, scores.round(2)
