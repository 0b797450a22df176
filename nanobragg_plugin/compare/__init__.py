"""What was found, against the truth."""
