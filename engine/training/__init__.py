"""Training checkpoints on recorded random halves."""
