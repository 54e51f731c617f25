"""What turns pixels or words into vectors."""
