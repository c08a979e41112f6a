"""The papers, each named after a folder beside this file. Python, Snakemake and DVC all read this list.

DVC reads it as text, so it is a plain list of names and nothing else.
"""

PAPERS = ["alias_free", "aps", "blurpool", "board", "lps", "sdnet", "tips", "translations", "wavelet_twins"]
