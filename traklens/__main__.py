"""`python -m traklens`: the command line."""

from traklens.engine.cli.main import main

main()
