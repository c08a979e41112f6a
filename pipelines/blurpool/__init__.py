"""Zhang, "Making convolutional networks shift-invariant again", ICML 2019, with Zou et al.'s adaptive filters (BMVC
2020).
"""
