"""Which of several runs leaks more, with an interval that uses what they share; `mia-compare` and `mia.difference`."""
