"""How the nets learn: patches, the loop, checkpoints, recipes."""
