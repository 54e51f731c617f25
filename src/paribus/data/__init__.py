"""Where samples come from, in which order, and as which views."""
