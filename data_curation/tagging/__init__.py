"""Reasoning or non-reasoning, by evidence: attempts where answers can be checked, a judge where
they cannot.
"""
