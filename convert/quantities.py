"""Numbers as a reader wants them."""

from convert.request import Row


def format_value(value: int, unit: str) -> str:
    """Write a quantity: bytes in binary units, counts in thousands, millions and billions."""
    if unit == "bytes":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"), " ")
    return _scaled(value, 1000, ("", "K", "M", "B", "T"), "")


def format_change(row: Row) -> str:
    """Write how much smaller the result is: ``4.0x smaller``, ``same``, ``1.2x larger``."""
    if row.before == row.after:
        return "same"
    if row.after == 0:
        return "none left"
    if row.after < row.before:
        ratio = row.before / row.after
        return (
            f"{ratio:.1f}x smaller" if ratio >= 1.1 else f"{100 * (1 - row.after / row.before):.1f}% smaller"
        )
    ratio = row.after / max(row.before, 1)
    return f"{ratio:.1f}x larger" if ratio >= 1.1 else f"{100 * (ratio - 1):.1f}% larger"


def _scaled(value: int, step: int, units: tuple[str, ...], gap: str) -> str:
    scaled, index = float(value), 0
    while scaled >= step and index < len(units) - 1:
        scaled, index = scaled / step, index + 1
    whole = index == 0 or scaled >= 100 or scaled == int(scaled)
    digits = f"{scaled:.0f}" if whole else f"{scaled:#.3g}"
    return f"{digits}{gap}{units[index]}".strip()
