"""What an evaluation says and shows: numbers (report.json), figures (*.png), one self-contained
page (report.html).
"""
