"""What a run publishes, and what it says about it: files, card, Croissant, report, the story of one
row.
"""
