"""Data that the package can make by itself, loading that skips what is damaged, and anyone's data: how it lies in a
folder, whether it is sound, a config for it."""
