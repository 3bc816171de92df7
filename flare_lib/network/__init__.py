"""What learns: the UNet with its supervised heads, its losses, and its weights on disk."""
