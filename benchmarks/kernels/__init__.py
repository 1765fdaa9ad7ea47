"""Kernel benchmark: ours against every installable peer, with a correctness check before each ratio."""
