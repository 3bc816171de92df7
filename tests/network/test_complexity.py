"""What a net costs and what it sees, counted by hand and by its gradient."""

import pytest
import torch
from torch import nn

from flare_lib.ct.labels import N_CLASSES
from flare_lib.ct.preprocess import FINE
from flare_lib.inference.slice_interpolation import GPU_MEMORY_BYTES
from flare_lib.inference.sliding_window import SLAB_SLICES
from flare_lib.network.complexity import count_operations, count_parameters, peak_bytes, receptive_field
from flare_lib.network.unet import UNet

PAPERS_PATCH = (96, 128, 160)

SMALL = {"features_per_stage": (3, 5, 7), "strides": ((2, 2, 2), (1, 2, 2)), "n_classes": 4, "n_heads": 2}


def test_the_parts_of_the_papers_net_add_up_to_its_parameters():
    with torch.device("meta"):
        counts = count_parameters(UNet())
    assert sum(map(sum, counts.values())) == 30_790_304
    assert counts["heads"] == [32 * 14, 64 * 14, 128 * 14, 256 * 14]
    # 3 x 3 x 3 from 1 and from 32 features to 32, 32 biases each, and scale and shift of two norms
    assert counts["encoder"][0] == 27 * 32 + 32 + 27 * 32 * 32 + 32 + 4 * 32


def test_the_papers_net_takes_897_gflop_for_its_patch():
    with torch.device("meta"):
        counts = count_operations(UNet(), (96, 128, 160))
    assert sum(map(sum, counts.values())) / 1e9 == pytest.approx(897.56, abs=0.01)


def test_operations_are_counted_as_by_hand():
    counts = count_operations(UNet(**SMALL), (8, 12, 20))
    voxels = 8 * 12 * 20
    assert counts["heads"] == [2 * voxels * 3 * 4, 2 * voxels // 8 * 5 * 4]
    assert counts["encoder"][0] == 2 * voxels * 27 * (1 * 3 + 3 * 3)
    assert counts["encoder"][1] == 2 * voxels // 8 * 27 * (3 * 5 + 5 * 5)
    assert counts["decoder"][0] == 2 * voxels * 27 * (6 * 3 + 3 * 3)
    assert counts["ups"][0] == 2 * voxels // 8 * 8 * 5 * 3


def test_counting_leaves_the_net_where_it_is():
    net = UNet(**SMALL)
    before = [p.clone() for p in net.parameters()]
    count_operations(net, (8, 12, 20))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_size_that_the_net_refuses_is_refused():
    with pytest.raises(ValueError, match=r"must be a multiple of \(2, 4, 4\)"):
        count_operations(UNet(**SMALL), (8, 12, 21))


@pytest.mark.parametrize("voxel", [(16, 24, 30), (17, 25, 31), (16, 27, 33)])
def test_the_receptive_field_is_where_the_gradient_reaches(voxel):
    torch.manual_seed(0)
    net = UNet(**SMALL)
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm3d):  # its mean and SD would carry the gradient everywhere
                setattr(module, name, nn.Identity())
    image = torch.randn(1, 1, 32, 48, 60, requires_grad=True)
    net.finest(image)[0, :, *voxel].sum().backward()
    reached = torch.nonzero(image.grad[0, 0])
    start, stop = receptive_field(SMALL["strides"], voxel)
    assert tuple(reached.min(0).values.tolist()) == start
    assert tuple((reached.max(0).values + 1).tolist()) == stop


def test_the_papers_net_sees_further_than_its_patch():
    start, stop = receptive_field(((2, 2, 2),) * 4 + ((1, 2, 2),), (48, 64, 80))
    assert all(b - a > n for a, b, n in zip(start, stop, (96, 128, 160), strict=True))


def test_the_papers_net_holds_the_largest_features_before_and_after_they_are_joined():
    with torch.device("meta"):
        net = UNet()
    channel = 4 * 96 * 128 * 160  # float32, at full resolution
    earlier = 64 / 8  # what the decoder stage before gave
    # the image; upsampled and skipped features, and the two joined
    assert peak_bytes(net, PAPERS_PATCH) == 4 * 30_790_304 + channel * (1 + 64 + 32 + 32 + earlier)
    with pytest.raises(ValueError, match="must be a multiple of"):
        peak_bytes(net, (95, 128, 160))


def test_a_card_of_4_gb_has_room_for_the_papers_net_and_the_widest_ct():
    with torch.device("meta"):
        net = UNet()
    side = round(500 / FINE.spacing_zyx_mm[1])  # voxels across the field of a scanner, 500 mm
    slice_bytes = 4 * N_CLASSES * side**2
    window = PAPERS_PATCH[0] * slice_bytes + 2 * SLAB_SLICES * slice_bytes  # the sums; a slab, and its division
    image = 4 * round(2000 / FINE.spacing_zyx_mm[0]) * side**2  # of a whole person, 2 m
    assert 2.7e9 < peak_bytes(net, PAPERS_PATCH) + window + image + GPU_MEMORY_BYTES < 3.1e9
