"""LZF, the byte compression inside `.pcd` files with ``DATA binary_compressed``.

The stream is a row of chunks. A first byte below 32 announces that many + 1 literal bytes. Any other first
byte holds a length in its upper three bits (7: one more byte is added) and with the next byte a 13-bit
distance back into the output; length + 2 bytes are repeated from there.
"""

import numpy as np
import numpy.typing as npt

_MAX_LITERAL = 32
_MAX_DISTANCE = 1 << 13
_MAX_MATCH = 7 + 255 + 2
_MIN_MATCH = 3


def decompress(data: bytes, size: int) -> bytes:
    """Expand `data` to exactly `size` bytes; the memory used grows with what was really expanded.

    Raises:
        ValueError: the stream is damaged or of another size.

    Example:
        >>> decompress(bytes([2, 97, 98, 99, 0x20 + 0x20, 2]), 7)
        b'abcabca'
    """
    out = bytearray()
    at, end = 0, len(data)
    while at < end:
        control = data[at]
        at += 1
        if control < _MAX_LITERAL:
            chunk = data[at : at + control + 1]
            if len(chunk) <= control:
                raise ValueError("the compressed data ends inside a literal")
            at += control + 1
            out += chunk
        else:
            length = control >> 5
            if length == 7:
                length += data[at] if at < end else _ends_early()
                at += 1
            low = data[at] if at < end else _ends_early()
            at += 1
            _repeat(out, ((control & 31) << 8 | low) + 1, length + 2)
        if len(out) > size:
            raise ValueError(f"the compressed data holds more than the {size} bytes expected")
    if len(out) != size:
        raise ValueError(f"the compressed data holds {len(out)} bytes where {size} are expected")
    return bytes(out)


def _ends_early() -> int:
    raise ValueError("the compressed data ends inside a reference")


def _repeat(out: bytearray, distance: int, length: int) -> None:
    """Append `length` bytes from `distance` back; source and target may overlap."""
    start = len(out) - distance
    if start < 0:
        raise ValueError("the compressed data refers to bytes before its beginning")
    piece = out[start : start + length]
    while len(piece) < length:
        piece = piece + piece
    out += piece[:length]


def compress(data: bytes) -> bytes:
    """Compress greedily; the nearest earlier place with the same three bytes is the one referred to.

    Example:
        >>> packed = compress(b"abc" * 1000)
        >>> len(packed), decompress(packed, 3000) == b"abc" * 1000
        (40, True)
    """
    previous = _previous_same(data)
    usable = np.flatnonzero((previous >= 0) & (np.arange(len(previous)) - previous <= _MAX_DISTANCE))
    out = bytearray()
    literal = 0  # where the bytes begin that no chunk covers yet
    free = 0
    for position, earlier in zip(usable.tolist(), previous[usable].tolist(), strict=True):
        if position < free:
            continue
        length = _match_length(data, earlier, position)
        _put_literals(out, data[literal:position])
        _put_reference(out, position - earlier, length)
        literal = free = position + length
    _put_literals(out, data[literal:])
    return bytes(out)


def _previous_same(data: bytes) -> npt.NDArray[np.int64]:
    """For each position the nearest earlier one with the same three bytes, or -1."""
    raw = np.frombuffer(data, np.uint8).astype(np.int64) if data else np.empty(0, np.int64)
    if len(raw) < _MIN_MATCH:
        return np.empty(0, np.int64)
    key = raw[:-2] << 16 | raw[1:-1] << 8 | raw[2:]
    order = np.argsort(key, kind="stable")
    previous = np.full(len(key), -1, np.int64)
    same = key[order[1:]] == key[order[:-1]]
    previous[order[1:][same]] = order[:-1][same]
    return previous


def _match_length(data: bytes, earlier: int, position: int) -> int:
    limit = min(_MAX_MATCH, len(data) - position)
    length = _MIN_MATCH
    while length < limit and data[earlier + length] == data[position + length]:
        length += 1
    return length


def _put_literals(out: bytearray, data: bytes) -> None:
    for at in range(0, len(data), _MAX_LITERAL):
        chunk = data[at : at + _MAX_LITERAL]
        out.append(len(chunk) - 1)
        out += chunk


def _put_reference(out: bytearray, distance: int, length: int) -> None:
    distance, length = distance - 1, length - 2
    out.append(min(length, 7) << 5 | distance >> 8)
    if length >= 7:
        out.append(length - 7)
    out.append(distance & 255)
