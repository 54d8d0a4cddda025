"""Which rows are the same, or nearly, and which repeat evaluation items."""
