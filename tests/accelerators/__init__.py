"""What ships, compiled for accelerators that are not there."""
