"""`python -m sparsetrain` is the command line."""

from sparsetrain.cli import main

main()
