"""Hosts and hardware."""
