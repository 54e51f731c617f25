"""Eyes for a language model: an encoder, a connector, and any causal language model."""
