"""Numbers as a reader wants them."""

from convert.request import Row

BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
COUNT_UNITS = ("", "K", "M", "B", "T")


def format_value(value: int, unit: str) -> str:
    """Write a quantity: bytes in binary units, counts in thousands, millions and billions."""
    if unit == "bytes":
        return _scaled(value, 1024, BYTE_UNITS, " ")
    return _scaled(value, 1000, COUNT_UNITS, "")


def format_change(row: Row) -> str:
    """Write how much smaller the result is: ``4.0x smaller``, ``7.3% smaller``, ``same``, ``2.0x larger``."""
    if row.before == row.after:
        return "same"
    if row.before == 0 or row.after == 0:
        return "new" if row.before == 0 else "none left"
    small, large = sorted((row.before, row.after))
    if row.after == small:
        return f"{_times(large / small) or f'{100 * (1 - small / large):.1f}%'} smaller"
    return f"{_times(large / small) or f'{100 * (large / small - 1):.1f}%'} larger"


def _times(ratio: float) -> str:
    """Write a ratio as a multiple, or nothing where a percentage says more."""
    if ratio < 1.5:
        return ""
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x"


def _scaled(value: int, step: int, units: tuple[str, ...], gap: str) -> str:
    scaled, index = float(value), 0
    while scaled >= step and index < len(units) - 1:
        scaled, index = scaled / step, index + 1
    whole = index == 0 or scaled >= 100 or scaled == int(scaled)
    digits = f"{scaled:.0f}" if whole else f"{scaled:#.3g}"
    return f"{digits}{gap}{units[index]}".strip()
