"""Other networks that s2vnet is compared with, and their training and inference."""
