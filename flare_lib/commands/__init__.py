"""What one types after `flare`, a module per part of the course; put together in `flare_lib.cli`."""
