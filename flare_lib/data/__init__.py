"""Where cases come from: fetched samples, cohorts on disk, prepared cases, augmentation, synthetic centres."""
