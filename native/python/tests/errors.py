"""What tests of errors share."""

from __future__ import annotations

from fusco import FuscoError


def raised(function, *arguments, **options):
    """The FuscoError that a call raises; AssertionError if it returns."""
    try:
        function(*arguments, **options)
    except FuscoError as error:
        return error
    raise AssertionError("nothing was raised")
