"""The ways to obtain a part of LUNA16: from Zenodo, from a directory, from the phantom."""
