"""Composing: two views of the same classes of fractals (Chen et al., ICLR 2023, section 4)."""
