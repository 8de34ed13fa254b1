"""What a problem owns: its model output f and the weight Q."""
