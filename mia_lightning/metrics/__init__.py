"""Curves, figures and accuracies: pure functions of scores and memberships."""
