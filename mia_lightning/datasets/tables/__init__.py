"""Tables: how a file becomes columns of text, and what a column holds."""
