"""Plain knowledge distillation (Hinton et al. 2015): a narrower model of random weights learns from the teacher."""

from __future__ import annotations

from rmtkd_edge.methods.base import Method
from rmtkd_edge.methods.students import Narrower


class PlainKd(Narrower):
    """The baseline that RMT-KD is held against: same shape family, same loss, no knowledge of the teacher's weights."""

    name = "plain-kd"
    title = "plain KD"
    needs_labels = False


METHOD: Method = PlainKd()
