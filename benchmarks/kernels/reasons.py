"""Why a row misses its `must` goal, after honest work: row key to one sentence with the evidence."""

REASONS: dict[str, str] = {}
