"""Machines: sessions, placement, submission. The only package that reads or sets environment
variables.
"""
