"""Building models and loading checkpoints as they were trained."""
