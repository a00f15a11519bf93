import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lunaops.numerals import number_of


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_comes_back_as_it_was_written(number: float) -> None:
    assert number_of(repr(number)) == number_of(f" +{number!r} ".replace("+-", "-")) == number


@pytest.mark.parametrize(
    "text", ["", " ", "nan", "inf", "-Infinity", "1e400", "1,5", "1_0", "0x10", "１", "1 2", "1e", "."]
)
def test_what_other_readers_would_not_take_is_no_number(text: str) -> None:
    assert math.isnan(number_of(text))
