"""Damaged files, for readers that must answer each of them with one clear error."""

import os
import random
from collections.abc import Iterator
from pathlib import Path


def corruptions(
    source: bytes | str | os.PathLike[str], *, seed: int = 0, flips: int = 8
) -> Iterator[tuple[str, bytes]]:
    """Damaged variants of a file, each with a name for `pytest.mark.parametrize` or a message.

    Yields cuts at several places, runs of zeros and 255 in the first bytes (where headers are) and elsewhere,
    single flipped bits, a missing and a doubled piece, and files of another kind: empty, noise, text, a
    web page, zeros. All differ from the original; the same seed gives the same variants.

    Args:
        source: a path, or the bytes of a sound file.
        seed: of the random places.
        flips: how many variants have one flipped bit.

    Example:
        >>> [name for name, data in corruptions(b"0123456789", flips=0)][:3]
        ['empty', 'one byte', 'cut at 10%']
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    for name, damaged in _variants(data, random.Random(seed), flips):
        if damaged != data:
            yield name, damaged


def _variants(data: bytes, rng: random.Random, flips: int) -> Iterator[tuple[str, bytes]]:
    size = len(data)
    yield "empty", b""
    yield "one byte", data[:1]
    for percent in (10, 50, 90):
        yield f"cut at {percent}%", data[: size * percent // 100]
    yield "last byte missing", data[:-1]
    for start, stop, where in ((0, 4, "magic"), (4, 64, "header"), (size // 2, size // 2 + 64, "middle")):
        for fill in (0, 255):
            length = max(0, min(stop, size) - start)
            yield (
                f"{where} filled with {fill}",
                data[:start] + bytes([fill]) * length + data[start + length :],
            )
    for number in range(flips if size else 0):
        # Half of the flips hit the header, where a single bit means most.
        at = rng.randrange(min(size, 64) if number % 2 == 0 else size)
        bit = 1 << rng.randrange(8)
        yield f"bit {bit} of byte {at} flipped", data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
    third = size // 3
    yield "a third missing", data[:third] + data[2 * third :]
    yield "a third twice", data[: 2 * third] + data[third:]
    yield "noise", rng.randbytes(max(size, 64))
    yield "zeros", bytes(max(size, 64))
    yield "text", b"This is not the file you are looking for.\n"
    yield "a web page", b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>\n"
