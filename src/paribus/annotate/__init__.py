"""A local page on which people say what kind of likeness two pictures share, without knowing who found it."""
