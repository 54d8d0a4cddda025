"""Why curation rejects a row."""
