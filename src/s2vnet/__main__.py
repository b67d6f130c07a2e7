"""``python -m s2vnet`` is the command line."""

from s2vnet.cli.app import main

main()
