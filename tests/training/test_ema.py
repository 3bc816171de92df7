"""The average of weights: a mean at first, then one that forgets; nothing else of the nets changes."""

import copy

import pytest
import torch

from flare_lib.training.ema import update_average


def nets():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    return net, copy.deepcopy(net)


def averages(values, decay):
    """Return what the average of a net holds whose weights are all `values[k]` after step k + 1."""
    net, average = nets()
    seen = []
    for step, value in enumerate(values, start=1):
        with torch.no_grad():
            for weight in net.parameters():
                weight.fill_(value)
        update_average(average, net, step, decay)
        found = torch.cat([weight.detach().flatten() for weight in average.parameters()])
        assert (found == found[0]).all()
        seen.append(float(found[0]))
    return seen


def test_the_first_steps_are_averaged_alike_and_the_later_ones_forget_by_the_decay():
    # decay .75 looks back over 4 steps: the mean of 1, of 2, of 3, of 4 and then .75 old + .25 new
    assert averages([8, 4, 0, 16, 3, 7], 0.75) == pytest.approx([8, 6, 4, 7, 6, 6.25], rel=1e-6)


def test_where_the_weights_begin_does_not_matter():
    net, average = nets()
    with torch.no_grad():
        for weight in average.parameters():
            weight.fill_(1e9)
    update_average(average, net, 1, 0.999)
    assert all(map(torch.equal, average.parameters(), net.parameters()))


def test_a_decay_of_0_is_the_last_weights():
    assert averages([8, 4, 0, 16], 0.0) == [8, 4, 0, 16]


def test_the_net_stays_as_it_is_and_counters_are_copied():
    net, average = nets()
    net(torch.randn(4, 3))  # counts a batch
    before = copy.deepcopy(net.state_dict())
    update_average(average, net, 5, 0.9)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert average[1].num_batches_tracked == 1
    assert all(weight.grad is None and weight.requires_grad for weight in average.parameters())


@pytest.mark.parametrize(
    ("step", "decay", "told"),
    [
        (0, 0.9, "the step must be 1 or more, got 0"),
        (1, 1.0, "the decay must be from 0 to below 1, got 1.0"),
        (1, -0.1, "the decay must be from 0 to below 1, got -0.1"),
    ],
)
def test_what_is_no_average_is_refused_and_nothing_is_changed(step, decay, told):
    net, average = nets()
    with torch.no_grad():
        net[0].bias.fill_(7.0)
    before = copy.deepcopy(average.state_dict())
    with pytest.raises(ValueError, match=told):
        update_average(average, net, step, decay)
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.state_dict().items())
