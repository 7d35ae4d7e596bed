"""`mirrorlog import` behind its options.

In reading order:
- options: what all kinds of import have in common, as the command line takes it.
- run: check a source, publish it, wait for the node, and print the result.
"""
