"""CUDA kernels of tenfold, which loads them itself; the wheel names this package after the CUDA version."""
