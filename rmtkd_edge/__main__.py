"""`python -m rmtkd_edge` is `rmtkd-edge`."""

from rmtkd_edge.cli.app import main

main()
