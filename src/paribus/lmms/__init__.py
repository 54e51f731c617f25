"""Paribus' models and questions in lmms-eval, which lives in an environment of its own.

lmms-eval finds ``plugin`` by an entry point; ``model`` and ``plugin`` alone import it.
"""
