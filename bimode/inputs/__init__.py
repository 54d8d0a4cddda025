"""What comes from outside, checked at one door: rows, prompts, pictures, characters."""
