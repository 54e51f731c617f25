"""Control, arms, stages, audit: the only part that knows it is an experiment."""
