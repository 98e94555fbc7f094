"""Synthetic faces, at the address that notebooks and other programs import them from."""

from utils.synthetic.faces import EMOTION_NAMES, OCCLUSIONS, Face, Photograph, draw_face, draw_photograph, draw_sheet

__all__ = ["EMOTION_NAMES", "OCCLUSIONS", "Face", "Photograph", "draw_face", "draw_photograph", "draw_sheet"]
