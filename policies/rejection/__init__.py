"""Policies that stop candidates before they finish."""
