"""Model directories: checked, opened, and given the modes that they lack."""
