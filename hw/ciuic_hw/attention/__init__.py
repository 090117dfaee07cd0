"""Attention on the GEMM engine's array and the softmax engine's lanes."""
