"""A package of the smallest possible size, run by the tests as a user would run any of the ten."""
