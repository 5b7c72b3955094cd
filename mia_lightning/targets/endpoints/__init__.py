"""Models that somebody else serves: one file for each protocol, and what asks them within a budget."""
