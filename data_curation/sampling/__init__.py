"""Asking models: pools of engines, caches in parts, replies in rounds, attempts."""
