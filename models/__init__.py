"""The networks: ESR and MA-Net, their diversity loss, and the reader of every checkpoint format."""

from models.classifier import EMOTIONS
from models.device import use_one_thread_after_fork
from models.inference import optimize_for_inference
from models.weights import CheckpointError, load_model, load_pretrained

__all__ = ["EMOTIONS", "CheckpointError", "load_model", "load_pretrained", "optimize_for_inference"]

use_one_thread_after_fork()
