"""View augmentation in compiled code (Chen et al., ICLR 2023, appendix; He et al., CVPR 2020)."""
