"""What a study found, drawn from its records and from nothing else: one page, tables, a summary."""
