"""Checkpoints: complete or not there, and everything comes back."""

import errno
import os
from pathlib import Path

import pytest
import torch

from flare_lib.training.checkpoint import load_checkpoint, save_checkpoint


def parts(seed):
    torch.manual_seed(seed)
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"net": net, "optimizer": optimizer, "scaler": torch.amp.GradScaler("cpu", init_scale=2.0 ** (seed + 3))}


def test_net_optimizer_scaler_and_step_come_back(tmp_path):
    before, after = parts(0), parts(1)
    save_checkpoint(tmp_path / "c.pt", **before, step=5, recipe={"lr": 1})
    assert load_checkpoint(tmp_path / "c.pt", **after, recipe={"lr": 1}) == 5
    assert torch.equal(before["net"].weight, after["net"].weight)
    moments = [p["optimizer"].state_dict()["state"][0]["exp_avg"] for p in (before, after)]
    assert torch.equal(*moments)
    assert after["scaler"].get_scale() == before["scaler"].get_scale() == 8


def test_the_average_of_the_weights_comes_back_beside_them(tmp_path):
    before, after = (parts(seed) | {"average": torch.nn.Linear(3, 2)} for seed in (0, 1))
    save_checkpoint(tmp_path / "c.pt", **before, step=5, recipe={})
    load_checkpoint(tmp_path / "c.pt", **after, recipe={})
    assert torch.equal(before["average"].weight, after["average"].weight)
    assert torch.equal(before["net"].weight, after["net"].weight)
    assert not torch.equal(after["average"].weight, after["net"].weight)


@pytest.mark.parametrize("content", [torch.ones(3), {"network_weights": {}}, [1, 2]])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"c\.pt must be a checkpoint of a training run, got a file of something else"):
        load_checkpoint(tmp_path / "c.pt", **parts(0), recipe={})


def test_another_recipe_is_refused_by_every_value_that_differs_even_one_that_is_gone(tmp_path):
    save_checkpoint(tmp_path / "c.pt", **parts(0), step=5, recipe={"lr": 1, "old": 2, "same": 3})
    with pytest.raises(ValueError, match=r"the same recipe, got other values of lr, old$"):
        load_checkpoint(tmp_path / "c.pt", **parts(0), recipe={"lr": 4, "same": 3})


def test_a_run_that_began_before_there_was_a_choice_goes_on_with_what_there_was(tmp_path):
    save_checkpoint(tmp_path / "c.pt", **parts(0), step=5, recipe={"lr": 1})
    there_was = {"keep": "last", "ema_decay": 0.0, "appearance": 0.0}
    assert load_checkpoint(tmp_path / "c.pt", **parts(0), recipe={"lr": 1} | there_was) == 5
    for name, value in (("keep", "best"), ("ema_decay", 0.98), ("appearance", 1.0)):
        with pytest.raises(ValueError, match=rf"got other values of {name}$"):
            load_checkpoint(tmp_path / "c.pt", **parts(0), recipe={"lr": 1, name: value})


def test_a_run_may_be_taken_up_in_float16_that_was_not(tmp_path):
    before, after = parts(0), parts(1)
    save_checkpoint(
        tmp_path / "c.pt", **before | {"scaler": torch.amp.GradScaler("cpu", enabled=False)}, step=5, recipe={}
    )
    assert load_checkpoint(tmp_path / "c.pt", **after, recipe={}) == 5
    assert after["scaler"].get_scale() == 16


def test_a_failed_save_leaves_the_earlier_checkpoint_and_nothing_else(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c.pt", **parts(0), step=5, recipe={})

    def full_disk(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'c.pt'}'"):
        save_checkpoint(tmp_path / "c.pt", **parts(1), step=6, recipe={})
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
    assert load_checkpoint(tmp_path / "c.pt", **parts(2), recipe={}) == 5
