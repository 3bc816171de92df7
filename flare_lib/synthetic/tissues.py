"""What tissues look like in a CT: HU without contrast agent, what an injection adds, how uneven they are.

HU ranges are textbook values for unenhanced tissue plus an enhancement that depends on the person's contrast phase:
one phase and one dose for all tissues together.
"""

from collections.abc import Sequence

import numpy as np

PHASES = ("none", "arterial", "portal", "late")
PHASE_PROBABILITIES = (0.15, 0.2, 0.5, 0.15)

# name prefix: (HU unenhanced, its spread between persons, enhancement arterial / portal / late, texture SD)
TISSUES: dict[str, tuple[float, float, tuple[float, float, float], float]] = {
    "air": (-1000, 3, (0, 0, 0), 2),
    "unlabelled": (-100, 8, (2, 3, 3), 8),
    "fat": (-105, 8, (0, 0, 0), 7),
    "skin": (20, 25, (5, 8, 8), 10),
    "muscle": (50, 8, (5, 12, 12), 9),
    "soft_tissue": (40, 8, (15, 25, 25), 9),
    "autochthon": (45, 12, (5, 12, 12), 12),
    "iliopsoas": (52, 8, (5, 12, 12), 8),
    "gluteus": (42, 12, (5, 12, 12), 12),
    "liver": (56, 8, (14, 55, 45), 5),
    "spleen": (47, 6, (65, 70, 50), 5),
    "pancreas": (40, 8, (60, 52, 35), 12),
    "kidney": (33, 5, (105, 135, 120), 14),
    "adrenal_gland": (25, 10, (40, 42, 28), 6),
    "gallbladder": (10, 8, (1, 2, 4), 4),
    "esophagus": (40, 8, (18, 28, 25), 12),
    "stomach": (40, 8, (25, 40, 35), 10),
    "duodenum": (38, 8, (30, 45, 35), 14),
    "small_bowel": (38, 8, (35, 50, 38), 14),
    "colon": (40, 8, (22, 38, 32), 12),
    "bowel_fluid": (18, 15, (0, 0, 0), 6),
    "bowel_gas": (-960, 20, (0, 0, 0), 10),
    "urinary_bladder": (6, 6, (0, 2, 120), 4),
    "prostate": (42, 6, (20, 35, 35), 10),
    "uterus": (45, 6, (35, 60, 50), 12),
    "thyroid_gland": (100, 20, (80, 70, 60), 8),
    "aorta": (42, 5, (250, 105, 75), 5),
    "heart": (42, 5, (190, 95, 70), 8),
    "atrial_appendage": (42, 5, (190, 95, 70), 8),
    "pulmonary_vein": (42, 5, (220, 100, 70), 8),
    "inferior_vena_cava": (42, 5, (40, 85, 75), 8),
    "superior_vena_cava": (42, 5, (150, 90, 75), 20),
    "portal_vein": (42, 5, (60, 115, 80), 5),
    "iliac_artery": (42, 5, (250, 105, 75), 5),
    "iliac_vena": (42, 5, (8, 60, 75), 8),
    "brachiocephalic": (42, 5, (150, 95, 75), 12),
    "common_carotid": (42, 5, (250, 105, 75), 6),
    "subclavian": (42, 5, (250, 105, 75), 6),
    "lung": (-850, 30, (0, 5, 5), 30),
    "trachea": (-980, 10, (0, 0, 0), 8),
    "brain": (34, 3, (2, 4, 4), 4),
    "spinal_cord": (30, 8, (3, 5, 5), 6),
    "costal_cartilages": (90, 20, (3, 5, 5), 20),
    "disc": (75, 15, (0, 0, 0), 8),
    "bone_marrow": (190, 50, (0, 5, 5), 35),
    "table": (-700, 150, (0, 0, 0), 30),
}
BLOOD_HU = 42  # unenhanced, in vessels and heart alike: people differ by how much haemoglobin they have
# everything else that TotalSegmentator names is bone: vertebrae, ribs, sacrum, hips, femurs, skull, ...
_BONE = (220.0, 60.0, (0.0, 5.0, 5.0), 45.0)


def draw_tissues(
    names: dict[int, str], rng: np.random.Generator, *, phases: Sequence[float] = PHASE_PROBABILITIES
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one person's tissues: mean HU and texture SD of every id, two float32 tables of 256.

    The phase is drawn once, with the probabilities `phases` of `PHASES`, and mixed with a neighbouring one; the dose
    scales all enhancement; each tissue varies a little. Raises ValueError for probabilities that do not add up to 1.
    """
    enhancement_weights = np.zeros(len(PHASES))
    phase = rng.choice(len(PHASES), p=phases)
    neighbour = int(np.clip(phase + rng.integers(-1, 2), 0, len(PHASES) - 1)) if phase else 0
    share = rng.uniform(0, 0.5)
    enhancement_weights[phase] += 1 - share
    enhancement_weights[neighbour] += share
    dose = rng.uniform(0.55, 1.3)
    fatty_liver = -rng.uniform(10, 60) if rng.random() < 0.2 else 0.0
    mean = np.zeros(256, dtype=np.float32)
    texture = np.zeros(256, dtype=np.float32)
    by_prefix: dict[str, tuple[float, float]] = {}  # left and right parts of a tissue look alike
    haemoglobin: float | None = None
    for i, name in sorted(names.items()):
        prefix = max((p for p in TISSUES if name.startswith(p)), key=len, default="bone")
        if prefix not in by_prefix:
            base, spread, enhancement, sd = TISSUES.get(prefix, _BONE)
            gain = float(enhancement_weights[1:] @ np.asarray(enhancement)) * dose * rng.uniform(0.8, 1.2)
            deviation = rng.normal(0, spread)
            if base == BLOOD_HU:
                haemoglobin = deviation if haemoglobin is None else haemoglobin
                deviation = haemoglobin + 0.25 * deviation
            by_prefix[prefix] = (base + deviation + gain, sd * rng.uniform(0.5, 1.5))
        mean[i], texture[i] = by_prefix[prefix]
        if prefix == "liver":
            mean[i] += fatty_liver
        elif prefix == "kidney":
            mean[i] += rng.normal(0, 4)
    return mean, texture


def blood_of(names: dict[int, str], mean: np.ndarray) -> float:
    """Return how bright abdominal veins are, in HU: as bright as the portal vein, else the aorta, else plain blood."""
    for prefix in ("portal_vein", "aorta"):
        for i, name in names.items():
            if name.startswith(prefix):
                return float(mean[i])
    return float(BLOOD_HU)


def is_bone(name: str) -> bool:
    """Return whether a structure is bone: whatever TotalSegmentator names and the table does not."""
    return not name.startswith(tuple(TISSUES))
