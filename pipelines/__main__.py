"""`python -m pipelines` is the command `phonolake`."""

from pipelines.cli import main

main()
