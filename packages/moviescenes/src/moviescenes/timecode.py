"""Time codes from frame numbers: whole numbers all the way, so that nothing drifts.

A time code counts frames at the nominal rate (24 for 23.976); drop-frame codes skip the numbers 0 and 1 (at 29.97)
of each minute but every tenth, so that the clock follows real time.
"""

from __future__ import annotations

import re
from fractions import Fraction

from tenfold._errors import UserInputError

__all__ = ["can_drop", "check_drop_frame", "clock", "from_timecode", "nominal_rate", "timecode"]


def nominal_rate(fps: Fraction) -> int:
    """Frames that a time code counts in a second.

    >>> nominal_rate(Fraction(24000, 1001)), nominal_rate(Fraction(25))
    (24, 25)
    """
    return max(1, round(fps))


def can_drop(fps: Fraction) -> bool:
    """Whether drop-frame codes are defined: at 29.97 and 59.94 alone.

    >>> can_drop(Fraction(30000, 1001)), can_drop(Fraction(24000, 1001))
    (True, False)
    """
    return fps in (Fraction(30000, 1001), Fraction(60000, 1001))


def check_drop_frame(fps: Fraction) -> None:
    """Say that drop-frame codes, which a user asks for, are not defined at this rate.

    Raises:
        UserInputError: another rate than 29.97 and 59.94.

    >>> check_drop_frame(Fraction(30000, 1001))
    """
    if not can_drop(fps):
        raise UserInputError(f"drop_frame: exists at 29.97 and 59.94 alone; this video has {float(fps):.3f}")


def timecode(frame: int, fps: Fraction, *, drop: bool = False) -> str:
    """``HH:MM:SS:FF`` of a frame number, with ``;`` before the frames where numbers are dropped.

    Raises:
        ValueError: drop-frame at a rate that has none, or a negative number.

    >>> timecode(258741, Fraction(24000, 1001)), timecode(17982, Fraction(30000, 1001), drop=True)
    ('02:59:40:21', '00:10:00;00')
    """
    if frame < 0 or (drop and not can_drop(fps)):
        raise ValueError(f"timecode: got frame {frame}, rate {fps}, drop {drop}; expected 29.97 or 59.94")
    base = nominal_rate(fps)
    if drop:
        skipped = base // 15
        tens, rest = divmod(frame, 600 * base - 9 * skipped)
        minute = 60 * base - skipped
        frame += 9 * skipped * tens
        if rest >= 60 * base:
            frame += skipped * ((rest - 60 * base) // minute + 1)
    seconds, frames = divmod(frame, base)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    width = max(2, len(str(base - 1)))
    return f"{hours % 24:02d}:{minutes:02d}:{seconds:02d}{';' if drop else ':'}{frames:0{width}d}"


def from_timecode(text: str, fps: Fraction, *, drop: bool = False) -> int:
    """The frame number that a code means; the inverse of `timecode` within a day.

    Raises:
        UserInputError: no time code, one that does not exist (a dropped number), or a rate without drop-frame.

    >>> from_timecode("00:10:00;00", Fraction(30000, 1001), drop=True)
    17982
    """
    match = re.fullmatch(r"(\d\d):([0-5]\d):([0-5]\d)[:;.](\d{2,3})", text.strip())
    base = nominal_rate(fps)
    if match is None or int(match[4]) >= base:
        raise UserInputError(f"timecode: got {text!r}; expected HH:MM:SS:FF with frames below {base}")
    hours, minutes, seconds, frames = map(int, match.groups())
    number = ((hours * 60 + minutes) * 60 + seconds) * base + frames
    if drop:
        check_drop_frame(fps)
        skipped = base // 15
        if frames < skipped and seconds == 0 and minutes % 10:
            raise UserInputError(f"timecode: got {text!r}, a number that drop-frame skips")
        total = hours * 60 + minutes
        number -= skipped * (total - total // 10)
    return number


def clock(seconds: float) -> str:
    """``HH:MM:SS.mmm``.

    >>> clock(3661.5)
    '01:01:01.500'
    """
    total = max(0, round(seconds * 1000))
    rest, milli = divmod(total, 1000)
    minutes, sec = divmod(rest, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{sec:02d}.{milli:03d}"
