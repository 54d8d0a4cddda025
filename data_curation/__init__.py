"""Rows: from raw sources to curated bi-mode Parquet."""
