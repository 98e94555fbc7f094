"""Data sets of synthetic faces, at the address that notebooks and other programs import them from."""

from utils.synthetic.datasets import write_affectnet, write_affectnet_raw, write_fer_plus, write_rafdb

__all__ = ["write_affectnet", "write_affectnet_raw", "write_fer_plus", "write_rafdb"]
