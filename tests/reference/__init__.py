"""Independent formulas: slow, plain, and written from papers and published code, not from the package."""
