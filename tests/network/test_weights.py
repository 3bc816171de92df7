"""What a trained net is on disk: nothing lost on the way, and no pair that is not one."""

import hashlib
import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from flare_lib.ct.preprocess import COARSE, FINE
from flare_lib.network.unet import UNet
from flare_lib.network.weights import load_strict, load_trained, packaged_weights, save_trained, stage_weights

CARD = {"preprocessing": FINE.to_dict(), "patch_size": [8, 12, 16], "recipe": {"seed": 3}, "figures": {"liver": 0.9}}


def small_net(seed=0, n_classes=3):
    torch.manual_seed(seed)
    return UNet(n_classes=n_classes, features_per_stage=(3, 4, 5), strides=((2, 2, 2), (1, 2, 2)), n_heads=2)


def image():
    return torch.randn((1, 1, 8, 12, 16), generator=torch.Generator().manual_seed(1))


def rewrite(stem, change):
    """Change the tensors of a pair, and its card's checksum so that the pair still belongs together."""
    weights, card = stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    card.write_text(json.dumps(json.loads(card.read_text(encoding="utf-8")) | {"weights_sha256": sha256}))


def test_a_net_comes_back_bit_by_bit_with_its_card(tmp_path):
    net = small_net()
    save_trained(tmp_path / "fine", net, CARD, half=False)
    trained = load_trained(tmp_path / "fine")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), trained.net.parameters(), strict=True))
    assert torch.equal(trained.net.finest(image()), net.finest(image()))
    assert trained.preprocessing == FINE
    assert (trained.patch_size, trained.scales) == ((8, 12, 16), (1.0,))
    assert {key: trained.card[key] for key in CARD} == CARD
    assert trained.card["architecture"] == net.architecture
    assert not trained.net.training
    assert all(parameter.requires_grad for parameter in trained.net.parameters())


def test_half_precision_is_rounded_once_and_comes_back_as_float32(tmp_path):
    net = small_net()
    save_trained(tmp_path / "coarse", net, CARD | {"preprocessing": COARSE.to_dict()})
    stored = load_file(tmp_path / "coarse.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    trained = load_trained(tmp_path / "coarse")
    for before, after in zip(net.parameters(), trained.net.parameters(), strict=True):
        assert after.dtype == torch.float32
        assert torch.equal(after, before.half().float())
    torch.testing.assert_close(trained.net.finest(image()), net.finest(image()), rtol=0.01, atol=0.01)
    kept = load_trained(tmp_path / "coarse", dtype=torch.float16)
    assert {parameter.dtype for parameter in kept.net.parameters()} == {torch.float16}


@pytest.mark.parametrize("name", ["fine-1.5mm", "fine-1.5mm.json", "fine-1.5mm.safetensors"])
def test_a_pair_is_found_by_its_stem_or_by_either_file(tmp_path, name):
    save_trained(tmp_path / "fine-1.5mm", small_net(), CARD)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fine-1.5mm.json", "fine-1.5mm.safetensors"]
    assert load_trained(tmp_path / name).card["figures"] == {"liver": 0.9}


def test_a_mixed_up_pair_is_noticed(tmp_path):
    save_trained(tmp_path / "a", small_net(seed=0), CARD)
    save_trained(tmp_path / "b", small_net(seed=1), CARD)
    os.replace(tmp_path / "b.safetensors", tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a.safetensors must be whole and belong to its card, with SHA-256"):
        load_trained(tmp_path / "a")


def test_a_truncated_file_is_noticed(tmp_path):
    save_trained(tmp_path / "a", small_net(), CARD)
    file = tmp_path / "a.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="must be whole"):
        load_trained(tmp_path / "a")


def test_bytes_that_are_no_safetensors_are_refused_even_when_the_card_vouches_for_them(tmp_path):
    save_trained(tmp_path / "a", small_net(), CARD)
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    card = json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) | {
        "weights_sha256": hashlib.sha256(b"no tensors").hexdigest()
    }
    (tmp_path / "a.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="must be a safetensors file, got"):
        load_trained(tmp_path / "a")


def test_missing_unknown_and_misshaped_tensors_are_named(tmp_path):
    def change(tensors):
        del tensors["ups.1.weight"]
        tensors["ups.7.weight"] = torch.zeros(2)
        tensors["heads.0.weight"] = torch.zeros(4, 3, 1, 1, 1)

    save_trained(tmp_path / "a", small_net(), CARD)
    rewrite(tmp_path / "a", change)
    with pytest.raises(ValueError) as raised:
        load_trained(tmp_path / "a")
    for part in (
        "missing: ups.1.weight;",
        "unknown: ups.7.weight;",
        "of another shape: heads.0.weight is (4, 3, 1, 1, 1), not (3, 3, 1, 1, 1)",
    ):
        assert part in str(raised.value)


def test_a_net_that_cannot_be_filled_is_left_as_it_was():
    net, other = small_net(seed=0), small_net(seed=1, n_classes=4)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match="the other net must hold exactly the net's tensors, got of another shape"):
        load_strict(net, other.state_dict(), source="the other net")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("name", ["a.json", "a.safetensors"])
def test_a_missing_half_of_a_pair_is_named(tmp_path, name):
    save_trained(tmp_path / "a", small_net(), CARD)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"there is no .*{name}"):
        load_trained(tmp_path / "a")


def change_card(change):
    def changed(text):
        card = json.loads(text)
        change(card)
        return json.dumps(card)

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-5], "must be JSON"),
        (lambda text: "[1, 2]", "must hold a JSON object, got a list"),
        (change_card(lambda card: card.pop("weights_sha256")), "must hold weights_sha256"),
        (change_card(lambda card: card.pop("preprocessing")), "must hold preprocessing"),
        (change_card(lambda card: card["architecture"].update(depth=3)), "architecture of a UNet, got .*depth"),
        (change_card(lambda card: card["architecture"].update(n_heads=1)), "unknown: heads.1.weight"),
        (change_card(lambda card: card.update(patch_size=[8, 12, 18])), r"multiples of \(2, 4, 4\), got \(8, 12, 18\)"),
        (
            change_card(lambda card: card.update(scales=[])),
            r"scales must be 1 to 8 numbers from 0.5 to 2, got \[\]",
        ),
        (change_card(lambda card: card.update(scales=[1, 3])), r"from 0.5 to 2, got \[1, 3\]"),
        (change_card(lambda card: card.update(scales="1")), "from 0.5 to 2, got '1'"),
        (change_card(lambda card: card.update(patch_size=8)), r"a\.json: patch_size must be 3 whole numbers, got 8"),
        (change_card(lambda card: card.update(patch_size=["8", "12", "16"])), "from 1 to 2048, got '8'"),
        (change_card(lambda card: card.update(patch_size=[2048] * 3)), "of at most 134,217,728 voxels, got"),
        (
            change_card(lambda card: card.update(preprocessing=[1])),
            r"a\.json must hold a preprocessing .*not a mapping",
        ),
        (
            change_card(lambda card: card["preprocessing"].update(spacing_zyx_mm=None)),
            "spacing_zyx_mm must be 3 numbers",
        ),
        (
            change_card(lambda card: card["preprocessing"].update(mean_hu=10**400)),
            "mean_hu must be a finite number, got",
        ),
        (change_card(lambda card: card["preprocessing"].update(window_hu=[0, math.inf])), "window_hu must be a finite"),
        (change_card(lambda card: card.update(architecture=[])), "the architecture of a UNet, got .*not a mapping"),
        (
            change_card(lambda card: card["architecture"].update(strides=[[math.inf] * 3])),
            r"a\.json: every number of str",
        ),
        (
            change_card(lambda card: card["architecture"].update(features_per_stage=[8, 10**9])),
            "from 1 to 4096, got 10",
        ),
        (change_card(lambda card: card["architecture"].update(n_classes=math.nan)), "n_classes must be a whole number"),
        (change_card(lambda card: card["architecture"].update(up_and_head_bias=1)), "must be true or false, got 1"),
    ],
)
def test_a_card_that_says_too_little_or_something_else_is_refused(tmp_path, change, message):
    save_trained(tmp_path / "a", small_net(), CARD)
    card = tmp_path / "a.json"
    card.write_text(change(card.read_text(encoding="utf-8")))
    with pytest.raises(ValueError, match=message):
        load_trained(tmp_path / "a")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"patch_size": [8, 12, 16]}, "card must hold preprocessing, got the keys patch_size"),
        (CARD | {"patch_size": [8, 12]}, "patch_size must be 3 whole numbers, got"),
        (CARD | {"patch_size": [8, 0, 16]}, "a whole number from 1 to 2048, got 0"),
        (CARD | {"figures": object()}, "only what JSON can"),
        (CARD | {"figures": float("nan")}, "only what JSON can"),
        (CARD | {"preprocessing": {"spacing_zyx_mm": [2, 2, 2]}}, "preprocessing must have the keys"),
    ],
)
def test_a_card_that_could_not_be_used_again_is_not_written(tmp_path, card, message):
    with pytest.raises(ValueError, match=message):
        save_trained(tmp_path / "a", small_net(), card)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("value", "half"), [(float("nan"), False), (1e6, True)])
def test_weights_that_are_not_finite_as_stored_are_refused(tmp_path, value, half):
    net = small_net()
    with torch.no_grad():
        net.ups[0].weight[0, 0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"must be finite.*ups\.0\.weight"):
        save_trained(tmp_path / "a", net, CARD, half=half)


def test_an_earlier_pair_survives_a_failure_while_writing(tmp_path, monkeypatch):
    net = small_net(seed=0)
    save_trained(tmp_path / "a", net, CARD, half=False)

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_trained(tmp_path / "a", small_net(seed=1), CARD, half=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.safetensors"]
    assert torch.equal(load_trained(tmp_path / "a").net.finest(image()), net.finest(image()))


def test_the_packaged_weights_lie_inside_the_library():
    assert packaged_weights("coarse").parts[-3:] == ("flare_lib", "weights", "coarse")
    with pytest.raises(ValueError, match="one of coarse, fine, thin, got 'medium'"):
        packaged_weights("medium")


@pytest.mark.parametrize(("thin", "names"), [((), 2), (("thin.json",), 3), (("thin.safetensors",), 3)])
def test_a_folder_has_a_net_of_thin_scans_or_not_and_the_other_two(tmp_path, thin, names):
    for name in thin:
        (tmp_path / name).touch()
    assert stage_weights(tmp_path) == {name: tmp_path / name for name in ("coarse", "fine", "thin")[:names]}
    assert stage_weights() == {name: packaged_weights(name) for name in ("coarse", "fine", "thin")}


def test_a_net_on_the_meta_device_receives_copies():
    with torch.device("meta"):
        net = small_net()
    tensors = small_net().state_dict()
    load_strict(net, tensors, source="here")
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 1
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(tensors[name], before[name]) for name in before)
    assert all(torch.equal(tensor, before[name] + 1) for name, tensor in net.state_dict().items())


def test_a_card_with_notepads_mark_is_read(tmp_path):
    save_trained(tmp_path / "a", small_net(), CARD)
    card = tmp_path / "a.json"
    card.write_bytes(b"\xef\xbb\xbf" + card.read_bytes())
    assert load_trained(tmp_path / "a").patch_size == (8, 12, 16)
