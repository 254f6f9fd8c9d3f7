"""What a CPU does otherwise than the references: it may look at a value and leave work out."""
