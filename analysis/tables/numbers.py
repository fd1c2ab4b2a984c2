"""Numbers as people write them: 7B parameters, 1.4T tokens."""


def human(value: float) -> str:
    """1234567 -> 1.23M."""
    value = float(f"{value:.3g}")  # rounded first: 999.9e3 is 1M, not 1000k
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
