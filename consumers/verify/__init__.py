"""Proof that a secondary equals its primary.

- compare.py: compares two files byte by byte, with no code shared with the site
"""
