"""Visual question answering: four-option questions, where they come from, and how answers are scored."""
