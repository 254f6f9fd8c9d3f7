"""What to do: one policy a file."""
