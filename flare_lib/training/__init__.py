"""How it learns: patches, the loop, checkpoints, recipes."""
