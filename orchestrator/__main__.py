"""`python -m orchestrator` is `distilsweep`."""

from orchestrator.cli import main

main()
