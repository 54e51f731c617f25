"""Paribus: what does the supervision signal do to a vision encoder, all else equal?"""

import os

# Two torch processes that spin on the same cores are ten times slower than two that sleep; torch reads
# this once, when it is imported, so it has to be said before anything below does so.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

__version__ = "0.1.0"
