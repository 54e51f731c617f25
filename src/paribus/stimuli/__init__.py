"""Test material beyond classification, made from the built-in corpus, whose factors are known."""
