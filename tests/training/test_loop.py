"""The loop: it learns, logs, stops and goes on as if it had never stopped."""

import os
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import numpy as np
import pytest
import torch

from flare_lib.ct.moments import Moments
from flare_lib.data.prepared import PreparedCase
from flare_lib.machine.precision import Precision
from flare_lib.network.unet import UNet
from flare_lib.synthetic.structures import Structures
from flare_lib.training import loop
from flare_lib.training.log import read_log
from flare_lib.training.loop import learning_rate_factor, make_optimizer, train, train_step
from flare_lib.training.patches import Patches
from flare_lib.training.recipes import preset
from flare_lib.training.validation import validation_dice

NAMES = {0: "air", 1: "liver", 2: "fat"}


def patches(recipe, unlabelled=()):
    array = np.zeros((20, 24, 28), np.uint8)
    array[:, 2:22, 2:26] = 2
    array[4:17, 6:18, 13:23] = 1
    return Patches({"label_maps": [Structures(array, NAMES, (5.0, 5.0, 5.0))]}, recipe, unlabelled=unlabelled)


def unlabelled_ct():
    hu = np.random.default_rng(0).normal(0, 100, size=(9, 17, 20)).astype(np.float16)
    return PreparedCase("u", hu, None, {}, Moments(hu.size, float(hu.mean(dtype=float)), 1e4 * hu.size))


def recipe(**changes):
    small = {
        "patch_size": (8, 16, 12),
        "features_per_stage": (4, 6, 8),
        "strides": ((2, 2, 2), (1, 2, 2)),
        "n_heads": 2,
        "n_steps": 6,
        "sources": {"label_maps": 1.0},
    }
    return preset("release", "coarse", **(small | changes))


def new_net(recipe, seed=0):
    torch.manual_seed(seed)
    return UNet(
        n_classes=14, features_per_stage=recipe.features_per_stage, strides=recipe.strides, n_heads=recipe.n_heads
    )


def run(recipe, folder, **settings):
    return train(new_net(recipe), patches(recipe), recipe, folder=folder, n_workers=0, precision="float32", **settings)


class Stop(Exception):
    pass


def stop_at(last):
    """Return an `on_step` that stops a run after a step."""

    def on_step(step, _loss):
        if step == last:
            raise Stop

    return on_step


def test_the_learning_rate_warms_up_and_then_falls_to_zero_by_the_papers_power():
    r = recipe(n_steps=1000, warm_up_steps=10)
    assert learning_rate_factor(0, r) == pytest.approx(0.1)
    assert learning_rate_factor(500, r) == pytest.approx(0.5**0.9)
    assert learning_rate_factor(999, r) == pytest.approx(0.001**0.9)


def test_the_halving_schedule_halves():
    r = recipe(schedule="halving", halve_every=100, warm_up_steps=1)
    assert [learning_rate_factor(step, r) for step in (0, 99, 100, 250)] == [1.0, 1.0, 0.5, 0.25]


def test_sgd_is_the_papers():
    r = recipe(optimizer="sgd", learning_rate=0.01, weight_decay=3e-5)
    optimizer = make_optimizer(new_net(r), r)
    settings = {name: optimizer.defaults[name] for name in ("lr", "momentum", "nesterov", "weight_decay")}
    assert settings == {"lr": 0.01, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}


def test_the_loss_of_a_step_is_the_supervised_one_and_the_weighted_disagreement():
    r = recipe(n_unlabelled=2)
    ct = unlabelled_ct()
    batch = patches(r, [ct]).batch(0)
    net = new_net(r)
    still = torch.optim.SGD(net.parameters(), lr=0.0)
    losses = train_step(net, still, batch, consistency_weight=0.5)
    assert losses["loss"] == pytest.approx(losses["supervised"] + 0.5 * losses["consistency"], rel=1e-6)
    labelled = {name: batch[name] for name in ("image", "target")}
    assert train_step(net, still, labelled) == {
        "loss": pytest.approx(losses["supervised"], rel=1e-5),
        "supervised": pytest.approx(losses["supervised"], rel=1e-5),
    }


@pytest.mark.slow("two trainings")
@pytest.mark.parametrize("kind", ["kl", "urpc"])
def test_unlabelled_cts_bring_the_heads_together(tmp_path, kind):
    ct = unlabelled_ct()
    last = {}
    for weight in (0.0, 5.0):
        r = recipe(n_unlabelled=2, consistency=kind, consistency_weight=weight, ramp_up_steps=1, n_steps=16)
        r = replace(r, warm_up_steps=1, learning_rate=1e-2)
        train(new_net(r), patches(r, [ct]), r, folder=tmp_path / str(weight), n_workers=0, precision="float32")
        entries = read_log(tmp_path / str(weight) / "log.jsonl")
        last[weight] = np.mean([entry["consistency"] for entry in entries[-5:]])
    assert last[5.0] < 0.5 * last[0.0]


def test_the_loss_falls(tmp_path):
    losses = []
    r = recipe(n_steps=30, warm_up_steps=1, learning_rate=5e-2)
    run(r, tmp_path, on_step=lambda step, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run that nothing disturbed, and their average."""
    folder = tmp_path_factory.mktemp("whole")
    run(recipe(), folder, checkpoint_every=2)
    return weights_of(folder)


def weights_of(folder):
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert not all(map(torch.equal, state["net"].values(), state["average"].values()))
    return {f"{what}.{name}": weight for what in ("net", "average") for name, weight in state[what].items()}


def test_a_run_stopped_and_taken_up_again_gives_bit_equal_weights(tmp_path, whole):
    with pytest.raises(Stop):
        run(recipe(), tmp_path, checkpoint_every=2, on_step=stop_at(3))
    given = run(recipe(), tmp_path, checkpoint_every=2).state_dict()
    resumed = weights_of(tmp_path)
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name
    assert all(torch.equal(weight, whole[f"average.{name}"]) for name, weight in given.items())


def run_until_killed(folder, moment):
    def kill(step, loss):
        if step == moment:
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    run(recipe(), folder, checkpoint_every=2, on_step=kill)


@pytest.mark.slow("a process that trains until it is killed")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize("moment", [0, 3, 4])
def test_a_run_that_is_killed_and_taken_up_again_gives_bit_equal_weights(fresh_processes, tmp_path, whole, moment):
    with fresh_processes(1) as pool, pytest.raises(BrokenProcessPool):
        pool.submit(run_until_killed, tmp_path, moment).result()
    assert (tmp_path / "killed").exists()  # it came as far as that
    assert (tmp_path / "checkpoint.pt").exists() == (moment > 0)
    run(recipe(), tmp_path, checkpoint_every=2)
    resumed = weights_of(tmp_path)
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name


def test_the_gradients_of_several_batches_are_averaged():
    r = recipe()
    batches = [patches(r).batch(k) for k in range(3)]
    nets = [new_net(r) for _ in range(4)]
    for net, some in zip(nets, ([batches[0]], [batches[1]], [batches[2]], batches), strict=True):
        train_step(net, torch.optim.SGD(net.parameters(), lr=0.0), some)
    for *each, together in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(together.grad, sum(p.grad for p in each) / 3, rtol=1e-4, atol=1e-6)


def test_a_gradient_longer_than_12_is_cut_to_12_and_a_shorter_one_left_alone(monkeypatch):
    r = recipe()
    batch = patches(r).batch(0)

    def norms(factor):
        """Return the length of the gradient that a step follows, and of what it was before."""
        net = new_net(r)
        wanted = torch.cat([p.detach().flatten() for p in net.parameters()])

        def loss(*_arguments, **_keywords):
            return {"loss": factor * sum(p.square().sum() / 2 for p in net.parameters())}

        monkeypatch.setattr(loop, "losses_of", loss)
        train_step(net, torch.optim.SGD(net.parameters(), lr=0.0), batch)
        followed = torch.cat([p.grad.flatten() for p in net.parameters()])
        return float(followed.norm()), float(factor * wanted.norm())

    followed, wanted = norms(100.0)
    assert wanted > 100
    assert followed == pytest.approx(12, rel=1e-5)
    followed, wanted = norms(0.1)
    assert followed == pytest.approx(wanted, rel=1e-5)


def test_gradients_of_float16_are_scaled_and_a_step_beyond_its_range_is_left_out():
    r = recipe()
    batch = patches(r).batch(0)
    gradients = {}
    for name in ("float32", "float16"):
        net = new_net(r)
        precision = Precision(name, "a test")
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=name == "float16")
        train_step(net, torch.optim.SGD(net.parameters(), lr=0.0), batch, precision=precision, scaler=scaler)
        gradients[name] = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    apart = gradients["float16"] - gradients["float32"]
    assert 0 < apart.norm() < 0.1 * gradients["float32"].norm()

    before = [p.detach().clone() for p in net.parameters()]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    train_step(net, optimizer, batch, precision=precision, scaler=scaler)
    assert scaler.get_scale() == 2.0**59
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_run_that_accumulates_sees_every_patch_once(tmp_path):
    r, seen = recipe(accumulate=2, n_steps=3), []
    stream = patches(r)
    batch = stream.batch
    stream.batch = lambda number: (seen.append(number), batch(number))[1]
    train(new_net(r), stream, r, folder=tmp_path, n_workers=0, precision="float32")
    assert seen == list(range(6))


def test_the_dice_on_held_out_patches_is_logged_every_so_often_and_at_the_end(tmp_path):
    r = recipe(n_steps=5, validate_every=2)
    held_out = [patches(recipe(seed=9)).batch(0)]
    told = []
    how = {"validation": held_out, "on_validation": lambda *at: told.append(at)}
    net = train(new_net(r), patches(r), r, folder=tmp_path, n_workers=0, precision="float32", **how)
    entries = read_log(tmp_path / "log.jsonl")
    assert ["validation_dice" in entry for entry in entries] == [False, True, False, True, True]
    dice = validation_dice(net, held_out)
    assert entries[-1]["organs_dice"][0] == pytest.approx(dice[0], abs=1e-4)
    assert entries[-1]["organs_dice"][1:] == [None] * 12
    assert entries[-1]["validation_dice"] == entries[-1]["organs_dice"][0]
    validated = [entry for entry in entries if "validation_dice" in entry]
    assert told == [(entry["step"] + 1, entry["validation_dice"], net) for entry in validated]


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_run_gives_the_average_of_its_weights_if_the_recipe_says_so(tmp_path, decay):
    r = recipe(n_steps=3, ema_decay=decay)
    net, seen = new_net(r), []

    def on_step(_step, _loss):
        seen.append([weight.detach().clone() for weight in net.parameters()])

    given = train(net, patches(r), r, folder=tmp_path, n_workers=0, precision="float32", on_step=on_step)
    # the first two weigh alike, and both together as much as the third
    expected = [(a + b) / 4 + c / 2 for a, b, c in zip(*seen, strict=True)] if decay else seen[-1]
    for found, weight in zip(given.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), weight, atol=1e-6, rtol=1e-6)
    assert all(map(torch.equal, net.parameters(), seen[-1]))
    assert (given is net) == (decay == 0)


def test_a_step_that_a_killed_run_did_after_its_last_checkpoint_has_one_line(tmp_path):
    with pytest.raises(Stop):
        run(recipe(), tmp_path, checkpoint_every=2, on_step=stop_at(4))
    assert [entry["step"] for entry in read_log(tmp_path / "log.jsonl")] == [0, 1, 2, 3, 4]
    run(recipe(), tmp_path, checkpoint_every=2)
    assert [entry["step"] for entry in read_log(tmp_path / "log.jsonl")] == [0, 1, 2, 3, 4, 5]


def test_the_log_has_a_line_a_step(tmp_path):
    run(recipe(), tmp_path)
    entries = read_log(tmp_path / "log.jsonl")
    assert [entry["step"] for entry in entries] == list(range(6))
    assert all(entry["loss"] > 0 and entry["s"] >= entry["wait_s"] >= 0 for entry in entries)


def test_a_checkpoint_of_another_recipe_is_refused_and_left_alone(tmp_path):
    run(recipe(), tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="same recipe, got other values of learning_rate"):
        run(recipe(learning_rate=0.5), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_truncated_checkpoint_is_refused(tmp_path):
    run(recipe(), tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="must be a complete checkpoint"):
        run(recipe(), tmp_path)
