"""What an evaluation says and shows: numbers (report.json), figures (*.png) and one self-contained page (report.html)."""
