"""Fuzzing with the formats' structures in mind; `python -m tests.fuzz` runs a campaign, test_corpus.py a short one."""
