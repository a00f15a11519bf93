"""Numbers as a reader wants them."""

import math
from collections.abc import Mapping

UNDEFINED = "undefined"
MINUS = "\N{MINUS SIGN}"


def decimal(value: float, digits: int = 3) -> str:
    """0.774; 1,234.5 where it is large."""
    return UNDEFINED if math.isnan(value) else f"{value:,.{digits}f}".replace("-", MINUS)


def difference(old: float, new: float, digits: int = 3) -> str:
    """+0.012 or −0.012, and 0 where nothing can be seen of it."""
    if math.isnan(old) or math.isnan(new):
        return "0" if math.isnan(old) and math.isnan(new) else UNDEFINED
    change = round(new - old, digits)
    return f"{change:+,.{digits}f}".replace("-", MINUS) if change else "0"


def interval(metrics: Mapping[str, float], name: str) -> str:
    """0.612 to 0.871: the ends of the metric's interval, empty where there is none.

    They are called so: cpm_lo and cpm_hi of cpm, sensitivity_lo/1 of sensitivity_at/1.
    """
    base, _, of = name.partition("_at/")
    low, high = (metrics.get(f"{base}_{end}" + (f"/{of}" if of else "")) for end in ("lo", "hi"))
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f"{decimal(low)} to {decimal(high)}".replace(" ", "\N{NO-BREAK SPACE}")


def share(part: float, whole: float) -> float:
    """`part` of `whole`; NaN of nothing."""
    return part / whole if whole else math.nan
