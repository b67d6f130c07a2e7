"""S2VNet: one 2D network that segments whole 3D volumes automatically and interactively, every class at once."""

__version__ = "0.1.0"
