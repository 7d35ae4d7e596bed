"""The command line. It puts the roles together, and is the only room that knows them all.

In reading order:
- main: the list of commands, the global options, and how an error becomes an exit code.
- commands/: a file for each command, imported only when that command runs.
- support/: what several commands need.
- doctor/: what `mirrorlog doctor` gathers, and how it judges it.
- importing/: `mirrorlog import` behind its options.
- demo/: a run of all parts as real processes, for `mirrorlog demo` and for the tests.
"""
