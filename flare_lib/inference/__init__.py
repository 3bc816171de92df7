"""From CT to labels: sliding window, slice interpolation, post-processing, coarse to fine."""
