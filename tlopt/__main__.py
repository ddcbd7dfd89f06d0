"""``python -m tlopt`` and ``torchrun … -m tlopt`` run the command line."""

from tlopt.cli import main

main()
