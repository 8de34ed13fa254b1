"""Which training examples raised or lowered an output: scores, methods, targets that are not in the store."""
