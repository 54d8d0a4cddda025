"""The OpenAI endpoint on Ray Serve."""
