"""Changes to a preset that make its run tiny, on painted persons, on real cases, and on both."""

TINY = {"patch_size": (8, 16, 12), "features_per_stage": (4, 6, 8), "strides": ((2, 2, 2), (1, 2, 2)), "n_heads": 2}
TINY |= {"n_steps": 2, "spacing_zyx_mm": (8.0, 8.0, 8.0)}
PAINTED = TINY | {"sources": {"label_maps": 1.0}}
REAL = TINY | {"sources": {"cases": 1.0}, "n_validation": 1, "validate_every": 1}
REAL_AND_PAINTED = TINY | {"sources": {"pseudo_labelled": 0.5, "label_maps": 0.5}, "n_between": 0, "validate_every": 1}
