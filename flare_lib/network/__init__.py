"""What learns: the UNet with its supervised heads, its losses, its weights on disk."""
