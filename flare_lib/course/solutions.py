"""The exercises' right answers, one function each: the notebooks' folded solutions, which a test compares with them."""

import numpy as np


def volume_ml(label_map_zyx, organ_id, spacing_zyx_mm):
    """Return the volume of one organ in mL."""
    voxel_mm3 = np.prod(spacing_zyx_mm)
    return (label_map_zyx == organ_id).sum() * voxel_mm3 / 1000


def normalized(hu, low, high):
    """Return HU cut to the window, with mean 0 and SD 1."""
    cut = hu.clip(low, high)
    return (cut - cut.mean()) / cut.std()


def head_shape(patch_zyx, strides, head):
    """Return the grid (z, y, x) of a head; head 1 is the finest."""
    shape = np.array(patch_zyx)
    for stride in strides[: head - 1]:
        shape = shape // stride
    return tuple(shape)


def consistency(heads):
    """Return the sum over the heads of KL(P || head); `heads` holds probabilities (n_heads, n_classes)."""
    P = heads.mean(axis=0)
    return (P * (np.log(P) - np.log(heads))).sum()


def total_loss(supervised, disagreement, step, ramp_up_steps):
    """Return the loss of a step; the weight of the second term rises to 0.1."""
    w = 0.1 * np.exp(-5 * (1 - min(step / ramp_up_steps, 1)) ** 2)
    return supervised + w * disagreement


def pooled_mean_sd(n_voxels, means, sds):
    """Return mean and SD of all cases together, from the number of voxels, the mean and the SD of each."""
    n = n_voxels.sum()
    mean = (n_voxels * means).sum() / n
    mean_square = (n_voxels * (sds**2 + means**2)).sum() / n
    return mean, np.sqrt(mean_square - mean**2)


def averaged(tiles, starts, length):
    """Return the mean of the overlapping tiles, (length,); tile k covers the voxels from starts[k] on."""
    total, seen = np.zeros(length), np.zeros(length)
    for tile, start in zip(tiles, starts, strict=True):
        total[start : start + len(tile)] += tile
        seen[start : start + len(tile)] += 1
    return total / seen


def output_slab(values, n_out, first, stop):
    """Return the output slices first to stop - 1 of `values` resized to n_out slices (align_corners=False)."""
    n_in = len(values)
    at = (np.arange(first, stop) + 0.5) * n_in / n_out - 0.5
    return np.interp(at, np.arange(n_in), values)


def flare_dsc(prediction, reference):
    """Return the DSC of two masks; 1 if both are empty."""
    total = prediction.sum() + reference.sum()
    return 1.0 if total == 0 else 2 * (prediction & reference).sum() / total


def paired_difference(better, worse):
    """Return mean and SD (population) of the differences, seed by seed."""
    difference = better - worse
    return difference.mean(), difference.std()


def cut_by_border(mask_zyx):
    """Return whether an organ touches the first or the last slice."""
    return mask_zyx[0].any() or mask_zyx[-1].any()
