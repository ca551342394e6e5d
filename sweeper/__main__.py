"""`python -m sweeper`, which is how a launch starts its workers."""

from sweeper.cli import main

main()
