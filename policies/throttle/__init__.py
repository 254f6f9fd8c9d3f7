"""Policies that set the hardware: clocks, power, threads, batch limits, one a file."""
