"""Contracts for what a third party writes: each check raises an AssertionError that says which law was broken.

    from skipback.testing import check_feedback

    def test_my_rule():
        check_feedback(MyRule())

The laws themselves stand in the docstrings of `Draw`, `Feedback`, `Signal`, `Memory`, `Transport`, `Estimate` and
`Update`. A law that is broken in silence trains something else: these checks are how one finds out.
"""

from skipback.testing.directions import check_combine
from skipback.testing.draws import check_draw
from skipback.testing.feedback import check_feedback
from skipback.testing.method import check_method
from skipback.testing.signals import check_memory, check_signal
from skipback.testing.transport import check_transport
from skipback.testing.update import check_update

__all__ = [
    "check_combine",
    "check_draw",
    "check_feedback",
    "check_memory",
    "check_method",
    "check_signal",
    "check_transport",
    "check_update",
]
