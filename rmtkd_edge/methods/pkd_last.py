"""PKD-Last (Sun et al. 2019, arXiv 1908.09355): patient distillation from the teacher's last layers."""

from __future__ import annotations

from rmtkd_edge.methods.base import Method
from rmtkd_edge.methods.pkd import Pkd


class PkdLast(Pkd):
    """PKD whose student's layers learn from as many layers before the teacher's last."""

    name = "pkd-last"
    title = "PKD-Last"

    def patient(self, layers: int, depth: int) -> list[int]:
        """Return, for every layer of a student but its last, the teacher's layer at the same distance from the end."""
        return [layers - depth + i for i in range(depth - 1)]


METHOD: Method = PkdLast()
