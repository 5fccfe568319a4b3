"""`python -m pimc`."""

from pimc.cli import main

main()
