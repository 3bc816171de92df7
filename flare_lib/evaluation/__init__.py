"""How good: the FLARE 2022 metrics."""
