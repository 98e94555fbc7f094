"""Ways other than diversified attention to make branches differ, or to gain from it, at the same cost."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


def soft_targets(targets: Tensor, num_classes: int) -> Tensor:
    """Return labels as distributions (N, K): class indices (N,) as ones and zeros, distributions as they are."""
    return targets if targets.ndim == 2 else nn.functional.one_hot(targets, num_classes).float()


def cross_entropies(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of every branch and face, (B, N).

    Args:
        logits: (B, N, K).
        targets: distributions over the classes, (N, K).
        class_weights: factor on each class's part, (K,); None for ones.
    """
    weighted = targets if class_weights is None else targets * class_weights
    return -(weighted * logits.log_softmax(dim=2)).sum(dim=2)


def ensemble_cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of the branches' mean probability for every face, (N,); arguments as above."""
    log_mean = logits.log_softmax(dim=2).logsumexp(dim=0) - np.log(len(logits))  # (N, K)
    return -((targets if class_weights is None else targets * class_weights) * log_mean).sum(dim=1)


def negative_correlation(logits: Tensor) -> Tensor:
    """Return the penalty of negative-correlation learning, a scalar: 0 for equal branches, otherwise negative.

    The sum over branches i of (p_i - p) . sum over j != i of (p_j - p), mean over the faces, where p is the branches'
    mean probability (Liu and Yao, "Ensemble learning via negative correlation", Neural Networks 1999, for
    vectors). What the others differ by sums to what i differs by, with the other sign, so it is -sum of |p_i - p|^2.
    """
    probabilities = logits.softmax(dim=2)  # (B, N, K)
    return -(probabilities - probabilities.mean(dim=0)).square().sum(dim=(0, 2)).mean()


def wrong_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Return what each branch gives to the classes that a face is not, as unit vectors (B, N, K).

    Branches that differ here are wrong in different ways and right together (Pang et al., "Improving adversarial
    robustness via promoting ensemble diversity", ICML 2019). Each probability is multiplied by the share of the votes
    that are not for its class.
    """
    return nn.functional.normalize(logits.softmax(dim=2) * (1 - targets), dim=2, eps=1e-6)


def distillation(logits: Tensor) -> Tensor:
    """Return the cross-entropy of every branch against the ensemble's mean probability, (B, N), for scores (B, N, K).

    The mean has no gradient: the ensemble teaches its branches (after Lan, Zhu, Gong, "Knowledge distillation by
    on-the-fly native ensemble", NeurIPS 2018, where a learnt gate weighs the branches in place of the mean).
    """
    return cross_entropies(logits, logits.detach().softmax(dim=2).mean(dim=0))


def bagging_weights(num_branches: int, num_faces: int, seed: int) -> Tensor:
    """Return how often each branch sees each training face, (B, N) float32: Poisson with mean 1, fixed by the seed.

    The online form of sampling with replacement (Oza and Russell, "Online bagging and boosting", AISTATS 2001).
    """
    rng = np.random.default_rng([seed, num_branches])
    return torch.from_numpy(rng.poisson(1.0, size=(num_branches, num_faces)).astype(np.float32))


def balanced_weights(labels: np.ndarray, power: float) -> Tensor:
    """Return a weight per class, (K,) float32, that falls with its frequency: count ** -power.

    Args:
        labels: class indices (N,) or distributions (N, K), whose sums are the counts.
        power: 0 for ones, 1 for classes that weigh the same in all.

    Returns:
        Weights whose mean over the faces is 1, so that the loss keeps its scale; 0 for a class without a face.
    """
    counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels)
    weights = np.where(counts > 0, np.maximum(counts, 1e-6) ** -power, 0)
    return torch.from_numpy(weights * counts.sum() / (weights * counts).sum()).float()


def mix_faces(images: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Blend faces or maps (N, C, H, W), and labels (N, K), with others of the batch (Zhang et al., "mixup", ICLR 2018).

    The share is drawn from Beta(alpha, alpha) once per batch, from PyTorch's random state; 0 leaves all as it is.
    """
    if not alpha:
        return images, targets
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(images)).to(images.device)
    return torch.lerp(images[other], images, share), torch.lerp(targets[other], targets, share)


def drop_channels(share: float) -> Callable[[Tensor], Tensor]:
    """Return what sets a share of the channels of maps (N, C, H, W) to 0, anew for every face, and scales the rest."""
    return lambda features: nn.functional.dropout2d(features, share)


def erase_square(share: float) -> Callable[[Tensor], Tensor]:
    """Return what sets a square of maps (N, C, H, W) to 0, anew for every face: this share of the area."""

    def erase(features: Tensor) -> Tensor:
        N, _, H, W = features.shape
        side = max(1, round((share * H * W) ** 0.5))
        kept = torch.ones(N, 1, H, W, device=features.device, dtype=features.dtype)
        inside = []
        for length in (H, W):
            first = torch.randint(length - side + 1, (N, 1), device=features.device)
            place = torch.arange(length, device=features.device)
            inside.append((place >= first) & (place < first + side))  # (N, length)
        return features * kept.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)

    return erase


def look_through(branches: nn.ModuleList, mask: Callable[[Tensor], Tensor]) -> None:
    """Have every branch see the shared map through a mask of its own while it is trained."""

    def see(branch: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        return (mask(inputs[0]),) if branch.training else None

    for branch in branches:
        branch.register_forward_pre_hook(see)
