"""From data and checkpoints to a finished store, stage by stage."""
