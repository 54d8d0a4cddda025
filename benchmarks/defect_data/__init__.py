"""Rows with planted defects: the generator, the files it writes, the table of what is true, and the
scoring.
"""
