"""What a problem owns: contract.py says what that is, one file holds each task, registry.py finds them. No torch here."""

TASK_VARIABLE = "TRAKLENS_TASK"  # names the user's own task for processes begun by this one
