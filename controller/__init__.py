"""The governor and everything around its loop."""
