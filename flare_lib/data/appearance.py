"""Random appearance: the same anatomy as other scanners, or no scanner at all, would show it.

A net that learns from painted CTs also learns how they are painted. Here a patch's grey values go through a small
convolutional net of random weights, which changes how bright tissues are against each other and what their texture is,
and moves no border by more than a voxel or two (Ouyang et al., Causality-inspired Single-source Domain Generalization
for Medical Image Segmentation, IEEE TMI 2022, who call it GIN). Then follows what scanners differ in: sharpness, slice
thickness, noise, and the level and spread of grey values. Labels stay as they are.
"""

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

_N_LAYERS, _N_CHANNELS = 4, 2
_LEAK = 0.01
_LEAST_EVEN = 0.2  # of the image's own `_evenness`; the convolutions seldom go below it
_N_DRAWS = 10


def randomize_appearance(image: np.ndarray, rng: np.random.Generator, *, strength: float = 1.0) -> np.ndarray:
    """Return a normalised patch, float32 (Z, Y, X), as another scanner would show it; the input is kept.

    `strength` from 0 to 1: up to 0.7 times as much of the result is what random convolutions made, in half of the
    patches; each of five properties of the scanner is changed in about a quarter of them, whatever the strength. A
    patch without contrast stays as it is but for noise and level. Raises ValueError for another strength or shape.
    """
    if image.ndim != 3 or not image.size:
        raise ValueError(f"image must be (Z, Y, X) with voxels in it, got the shape {image.shape}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be from 0 to 1, got {strength}")
    image = image.astype(np.float32)
    if rng.random() < 0.5 * strength:
        image = random_convolutions(image, rng, share=float(rng.uniform(0, 0.7 * strength)))
    for change in (_sharpness, _slice_thickness, _noise, _level, _spread):
        if rng.random() < 0.25:
            image = change(image, rng)
    return image


def random_convolutions(image: np.ndarray, rng: np.random.Generator, *, share: float) -> np.ndarray:
    """Return `image` (Z, Y, X), mixed with what four random convolutions make of it; mean and SD stay.

    Kernels are of 1 voxel or, one in three, of 3. If the convolutions turn bright to dark, their result is turned back,
    for air is dark in every CT; if they leave hardly any contrast, others are drawn, at most ten. `share` from 0 to 1
    of the mixture is theirs; with 0, and for an image of no contrast or too little, the answer is the image.
    """
    mean, sd = float(image.mean()), float(image.std())
    if not share or not sd:
        return image.astype(np.float32)
    for _ in range(_N_DRAWS):
        made = _convolved(image, rng)
        if _evenness(made) >= _LEAST_EVEN * _evenness(image):  # otherwise all but a few voxels would look alike
            break
    else:  # a contrast so faint that float32 loses it beside the biases
        return image.astype(np.float32)
    result = _with_moments(made, mean, sd)
    if ((result - mean) * (image - mean)).mean() < 0:
        result = 2 * mean - result
    return _with_moments(share * result + (1 - share) * image, mean, sd)


def _convolved(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return what a convolutional net of random weights makes of an image (Z, Y, X)."""
    made = torch.from_numpy(image.astype(np.float32))[None, None]  # (1, C, Z, Y, X)
    for layer in range(_N_LAYERS):
        n_in, n_out = made.shape[1], _N_CHANNELS if layer < _N_LAYERS - 1 else 1
        width = int(rng.choice([1, 1, 3]))
        weight = rng.standard_normal((n_out, n_in, width, width, width)).astype(np.float32)
        bias = 0.5 * rng.standard_normal(n_out).astype(np.float32)
        around = functional.pad(made, (width // 2,) * 6, mode="replicate")
        made = functional.conv3d(around, torch.from_numpy(weight), torch.from_numpy(bias))
        if layer < _N_LAYERS - 1:
            made = functional.leaky_relu(made, _LEAK)
    return made[0, 0].numpy()


def _evenness(image: np.ndarray) -> float:
    """Return the mean deviation over the SD: the less, the fewer voxels hold all the contrast; 0 if there is none."""
    deviation = image - image.mean()
    return float(np.abs(deviation).mean()) / (float(deviation.std()) or 1.0)


def _with_moments(image: np.ndarray, mean: float, sd: float) -> np.ndarray:
    """Shift and stretch an image to a mean and SD; without contrast it is only shifted."""
    return ((image - image.mean()) * (sd / (float(image.std()) or 1.0)) + mean).astype(np.float32)


def _sharpness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, or sharpen by what blurring takes away."""
    blurred = ndimage.gaussian_filter(image, rng.uniform(0.4, 0.9))
    return blurred if rng.random() < 0.5 else image + np.float32(rng.uniform(0.3, 1.0)) * (image - blurred)


def _slice_thickness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Average two or three slices to one, and interpolate between these; too few slices stay as they are."""
    n = int(rng.integers(2, 4))
    if len(image) < n:
        return image
    thick = functional.avg_pool3d(torch.from_numpy(image)[None, None], (n, 1, 1), ceil_mode=True)
    thin = functional.interpolate(thick, scale_factor=(float(n), 1.0, 1.0), mode="trilinear", align_corners=False)
    return thin[0, 0, : len(image)].numpy()


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise whose grains are wider than a voxel, more so in the plane: 3 to 16 % of the SD that 1 stands for."""
    grain = rng.uniform(0.5, 1.5)
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), (0.6 * grain, grain, grain))
    return image + noise * np.float32(rng.uniform(0.03, 0.16) / (noise.std() or 1.0))


def _level(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image + np.float32(rng.normal(0, 0.08))


def _spread(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _with_moments(image, float(image.mean()), float(image.std()) * rng.uniform(0.85, 1.15))
