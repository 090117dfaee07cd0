"""Models: files, tokenizers, the families, and generation."""
