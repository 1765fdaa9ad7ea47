import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.io.lzf import compress, decompress


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300), st.lists(st.sampled_from([b"a", b"ab", b"abcab", b"\0" * 9])).map(b"".join)
    )
)
def test_round_trip(data):
    assert decompress(compress(data), len(data)) == data


def test_long_matches_distances_and_literals():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, 9000, dtype=np.uint8).tobytes()
    data = noise + noise + b"\0" * 70_000 + noise[:100] + noise[-8192:] + b"end"
    packed = compress(data)
    assert decompress(packed, len(data)) == data
    assert len(packed) < 0.62 * len(data)


def test_hand_made_stream():
    # Literals "ab", then 5 bytes from 2 back (overlapping), then a long copy of 2 + 7 + 1 bytes from 1 back.
    stream = bytes([1]) + b"ab" + bytes([3 << 5, 1]) + bytes([7 << 5, 1, 0])
    assert decompress(stream, 17) == b"abababa" + b"a" * 10


@pytest.mark.parametrize(
    ("stream", "size", "text"),
    [
        (b"\x05ab", 6, "ends inside a literal"),
        (b"\x00a\x20", 4, "ends inside a reference"),
        (b"\x00a\xe0", 4, "ends inside a reference"),
        (b"\x00a\x20\x01", 4, "before its beginning"),
        (b"\x00a\xe0\xff\x00", 100, "more than the 100"),
        (b"\x00a", 2, "holds 1 bytes where 2"),
    ],
)
def test_damage(stream, size, text):
    with pytest.raises(ValueError, match=text):
        decompress(stream, size)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 3000))
def test_any_bytes(stream, size):
    try:
        assert len(decompress(stream, size)) == size
    except ValueError as error:
        assert "compressed data" in str(error)  # noqa: PT017
