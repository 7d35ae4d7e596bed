"""`python -m mirrorlog`: the command line."""

from mirrorlog.cli.main import main

main()
