"""Training again on part of the data: jobs, the process that works on them, what they measured."""
