"""From pairs and checkpoints to attributions. See docs/architecture.md."""

import os

# torch's OpenMP threads spin for milliseconds after every operation and so take the cores from the projection, which runs
# between them. A short spin costs torch nothing measurable (docs/benchmarks.md). It must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
