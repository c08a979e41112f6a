"""Numbers in sentences."""


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 epoch", "2 epochs", "1,200 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
