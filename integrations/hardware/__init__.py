"""Hardware: actuators that set it, meters that read it."""
