"""Data that the package can make by itself, and loading that skips what is damaged."""
