"""The subcommands of `flare`, one module for each part of the course; `flare_lib.cli` puts them together."""
