"""Fractal Pair Similarity pre-training: synthetic fractal pairs train an image encoder (Chen et al., ICLR 2023)."""
