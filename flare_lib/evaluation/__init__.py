"""How good and how fast: the FLARE 2022 metrics, measurements, efficiency and ablations."""
