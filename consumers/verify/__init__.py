"""Proof that a secondary equals its primary.

Files in reading order:

- verification.py: which ranges are equal, differ, or are hashed again; pure
- verification_log.py: what a verification asks the tracking log
- verifier.py: asks both sides for digests, and publishes reports
- digest_topics.py: how questions, answers and reports are published and read
- digest_server.py: answers, where the primary or the secondary is
- range_digests.py: digests of ranges of a device
- asked_digests.py: compares a seed with its primary by digests that are computed there
- schedule.py: when a verification that is repeated runs next; pure
- wiring.py: puts the verifier together, and the thread that answers beside a site
- compare.py: compares two files byte by byte, with no code shared with the site
"""
