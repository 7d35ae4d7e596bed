"""`python -m mirrorlog` runs the command line."""

from mirrorlog.cli.main import main

main()
