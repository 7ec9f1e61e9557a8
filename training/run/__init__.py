"""A training run: configuration, folder, checkpoints, processes, and the end of every command."""
