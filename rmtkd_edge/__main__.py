"""`python -m rmtkd_edge` is `rmtkd-edge`."""

from rmtkd_edge.cli import main

main()
