"""Visual question answering: questions with closed sets of answers, where they come from, how they score."""
