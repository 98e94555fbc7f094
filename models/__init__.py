"""The networks: ESR and MA-Net, their diversity loss, and the reader of every checkpoint format."""

from models.classifier import EMOTIONS
from models.inference import optimize_for_inference
from models.weights import CheckpointError, load_model, load_pretrained

__all__ = ["EMOTIONS", "CheckpointError", "load_model", "load_pretrained", "optimize_for_inference"]
