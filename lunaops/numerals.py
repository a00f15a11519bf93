"""Numbers as text files write them: ASCII digits, a decimal point, an exponent; nothing else is taken for one."""

import math
import re

_NUMERAL = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


def number_of(text: str) -> float:
    """The nearest float64, or nan where `text` is no finite number: 'inf', '1,5', '1_0', '0x10', '1e400', ''.

    Python's float() takes some of these, and digits of any script; other readers of the same file do not.
    """
    number = float(text) if _NUMERAL.fullmatch(text) else math.nan
    return number if math.isfinite(number) else math.nan
