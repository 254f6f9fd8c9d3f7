"""Plain torch references, for any device and dtype, float64 included; what tests compare with."""
