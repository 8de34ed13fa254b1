"""Hunting training examples with a wrong caption: signals, one ranking, decisions, exports."""
