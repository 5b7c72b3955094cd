"""Leakage while a user's own `trainer.fit` runs: Lightning callbacks, their table, their picture, and a screening."""
