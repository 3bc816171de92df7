"""The names that the tests of tissues and of painting share."""

NAMES = {
    0: "air",
    1: "liver",
    2: "fat",
    3: "vertebrae_L2",
    4: "stomach",
    5: "lung_lower_lobe_left",
    6: "kidney_left",
    7: "kidney_right",
    8: "unlabelled",
    9: "aorta",
}
