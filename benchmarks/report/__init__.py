"""The page that `nox -s demo` writes: the kernels on LiDAR frames, their peers, and a card for each package."""
