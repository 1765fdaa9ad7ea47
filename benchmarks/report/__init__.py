"""The page that `nox -s demo` writes: kernels on LiDAR frames, their peers, a card for each package."""
