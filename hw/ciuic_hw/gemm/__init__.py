"""The GEMM engine."""
