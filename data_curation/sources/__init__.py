"""What sources give: listed, cut into shards, read by format and layout or drawn by a family,
checked into candidates.
"""
