"""``python -m paribus``, which ``torchrun -m paribus`` needs."""

from paribus.cli import main

main()
