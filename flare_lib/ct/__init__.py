"""A CT and what is done to it: labels, volume, roi, resample, preprocess."""
