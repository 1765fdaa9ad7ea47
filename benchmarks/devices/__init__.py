"""The CUDA kernels: what the compiler says of them, what they should cost, and what a GPU measured."""
