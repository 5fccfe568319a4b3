"""Numbers as people read them: three significant digits, and the unit that fits."""

from __future__ import annotations


def time_text(seconds: float) -> str:
    """Three significant digits and the unit that fits."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= factor * 0.9995:
            return f"{significant(seconds / factor)} {unit}"
    return f"{significant(seconds / 1e-9)} ns"


def size_text(size: float) -> str:
    """Bytes with a decimal prefix, as bandwidths and traffic have them."""
    return _prefixed(size, "B")


def memory_text(size: float) -> str:
    """Bytes with a binary prefix, as memories have them."""
    for prefix in ("", "Ki", "Mi", "Gi", "Ti"):
        if size < 1023.5 or prefix == "Ti":
            whole = size == int(size) and size < 1024
            return f"{int(size) if whole else significant(size)} {prefix}B"
        size /= 1024
    raise AssertionError


def count_text(count: float, unit: str = "") -> str:
    """A large number with a decimal prefix; small whole numbers as they are."""
    if not unit and count < 10_000 and count == int(count):
        return str(int(count))
    return _prefixed(count, unit)


def _prefixed(number: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G", "T", "P"):
        if number < 999.5 or prefix == "P":
            text = str(int(number)) if not prefix and number == int(number) else significant(number)
            return f"{text} {prefix}{unit}".rstrip()
        number /= 1000
    raise AssertionError


def significant(number: float) -> str:
    """Three significant digits; large numbers in full."""
    if not number:
        return "0"
    return f"{number:#.3g}".rstrip(".") if abs(number) < 999.5 else f"{number:.0f}"


def percent(share: float) -> str:
    """A share of the whole; what is there but rounds to nothing is `<0.1 %`."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{share * 100:.1f} %" if share < 0.0995 else f"{share * 100:.0f} %"


def grouped(number: int) -> str:
    """12 345 678, in groups of three."""
    return f"{number:,}".replace(",", " ")
