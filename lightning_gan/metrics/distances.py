"""Distances between distributions, from features and logits: Fréchet, kernel, inception score, labels, D's logits.

Pure functions on tensors, in float64 where it matters. Whoever calls sees to it that no matrix product is rounded to TF32.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 64
"""Kernels are summed in blocks of so many rows: with 10,000 columns they stay in a CPU's cache."""


def matrix_root(covariance: Tensor) -> Tensor:
    """Take the symmetric positive semidefinite square root; what rounding made negative counts as 0.

    Args:
        covariance: (D, D), symmetric positive semidefinite.

    Returns:
        (D, D) float64.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def frechet_distance(mean: Tensor, covariance: Tensor, root: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """Fréchet distance of two Gaussians, Dowson & Landau 1982; of Inception's features the FID, Heusel et al. 2017, Eq. 6.

    |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)), where (S1 S2)^(1/2) has the trace of (R S2 R)^(1/2), with R the root of S1.

    No eigenvalue is dropped for being small: those of a product of covariances span 15 orders of magnitude, and the many
    smallest together made FID 343.49 of what is 343.32. Covariances of fewer samples than dimensions are as good as others.

    Args:
        mean, other_mean: (D,).
        covariance, other_covariance: (D, D).
        root: (D, D), `matrix_root(covariance)`; given so that it need not be computed again for each other side.
    """
    root, other_covariance = root.double(), other_covariance.double()
    values = torch.linalg.eigvalsh(_symmetric(root @ other_covariance @ root))
    distance: Tensor = (
        (mean.double() - other_mean.double()).square().sum()
        + covariance.double().trace()
        + other_covariance.trace()
        - 2 * values.clamp(min=0).sqrt().sum()
    )
    return float(distance)


def frechet_standard_error(
    mean: Tensor, covariance: Tensor, root: Tensor, other_mean: Tensor, other_covariance: Tensor, features: Tensor, num: int
) -> float:
    """Say how far the Fréchet distance scatters because the other side is a sample: the infinitesimal jackknife.

    To first order a sample x pulls the distance by psi(x) / num, Efron 1982, Chapter 6, where
    psi(x) = 2 (m2 - m1).(x - m2) + (x - m2)^T (I - T) (x - m2) - Tr((I - T) S2), and T = R (R S2 R)^(-1/2) R, which carries the
    second Gaussian to the first, is by how much S2 changes 2 Tr (R S2 R)^(1/2).

    It is the scatter at this number of samples, and says nothing about the bias. Measured, it is right to a few percent where
    there are ten times as many samples as dimensions that matter, and up to 1.5 times too large with few, even fewer than
    dimensions, and for equal distributions: there psi is 0 but for what the sample's own mean and covariance make of it.

    Args:
        mean, covariance, root, other_mean, other_covariance: as for `frechet_distance`.
        features: (N, D), the other side's, or a random part of them.
        num: how many samples other_mean and other_covariance are of.
    """
    if len(features) < 2:
        return math.nan
    mean, root, other_mean, features = mean.double(), root.double(), other_mean.double(), features.double()
    values, vectors = torch.linalg.eigh(_symmetric(root @ other_covariance.double() @ root))
    # What is 0 but for rounding has no inverse. Here it may be left out: no sample reaches there.
    seen = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    carried = root @ vectors[:, seen]
    transport = (carried / values[seen].sqrt()) @ carried.T  # T
    offset = features - other_mean
    psi = 2 * offset @ (other_mean - mean) + (offset * (offset - offset @ transport)).sum(1)  # but for a constant
    return float(psi.std()) / math.sqrt(num)


def kernel_distance(x: Tensor, y: Tensor, within_x: float | None = None) -> tuple[float, float]:
    """Kernel distance of two sets of features; of Inception's features it is the KID, Bińkowski et al. 2018, Section 4.

    The unbiased estimate of the squared maximum mean discrepancy, Gretton et al. 2012, Eq. 3, with the kernel
    k(a, b) = (a.b / D + 1)^3, over all pairs there are: nothing is drawn at random.

    The standard error is how far it scatters because `y` is a sample, by the infinitesimal jackknife: a sample pulls the
    distance by 2 (its mean kernel within y - its mean kernel with x) / M. Measured, it is 1.0 to 1.15 times the true one, also
    for equal distributions, where blocks of the samples, which are compared by some, overstate it by the root of their number.

    Args:
        x: (N, D).
        y: (M, D).
        within_x: `kernel_sum(x)`, where it is known already.

    Returns:
        The distance and its standard error; nan if there is but one sample in a set.
    """
    n, m = len(x), len(y)
    if n < 2 or m < 2:
        return math.nan, math.nan
    own = _kernel_sums(y) / (m - 1)  # (M,)
    between = sum((_kernel(rows, y).sum(0, dtype=torch.float64) for rows in x.split(ROWS)), torch.zeros_like(own)) / n  # (M,)
    within = (kernel_sum(x) if within_x is None else within_x) / (n * (n - 1))
    return within + float((own - 2 * between).mean()), 2 * float((own - between).std()) / math.sqrt(m)


def kernel_sum(x: Tensor) -> float:
    """Sum the kernel over all ordered pairs of different rows of `x`, (N, D)."""
    return _kernel_sums(x).sum().item()


def score_sums(logits: Tensor, split: Tensor, splits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sum up what the inception score takes, one part of the samples at a time: the sums of parts add.

    Args:
        logits: (N, K).
        split: (N,) int64, which of the `splits` groups each sample belongs to.

    Returns:
        For each group, in float64: how many samples there are (S,), the sum of their probabilities p (S, K), and the sum of
        their p log p (S,).
    """
    log_p = logits.double().log_softmax(1)  # finite where p itself underflows
    p = log_p.exp()
    member = F.one_hot(split, splits).double()  # (N, S)
    return member.sum(0), member.T @ p, member.T @ (p * log_p).sum(1)


def inception_score(count: Tensor, probabilities: Tensor, plogp: Tensor) -> tuple[float, float]:
    """Inception score, Salimans et al. 2016, Section 4: exp(E KL(p(y|x) || p(y))), from `score_sums`.

    Returns:
        Mean and standard deviation (of the splits as they are, not of what they stand for) over splits that have samples.
    """
    some = count > 0
    count = count[some]
    marginal = probabilities[some] / count[:, None]  # (S, K)
    scores = (plogp[some] / count + torch.special.entr(marginal).sum(1)).exp()
    return float(scores.mean()), float((scores - scores.mean()).square().mean().sqrt())


def label_divergence(generated: Tensor, real: Tensor) -> float:
    """Kullback-Leibler divergence of the generated labels from the real ones: sum of p_g log(p_g / p_r).

    A class that is generated but not among the real images counts as if half a real image had it.

    Args:
        generated, real: (K,), how many images have each label.
    """
    p = generated.double() / generated.sum()
    q = real.double().clamp(min=0.5) / real.sum()
    return float((torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum())


def covered_modes(generated: Tensor, real: Tensor) -> int:
    """Count the real classes of which more than a tenth of their share is generated.

    Args:
        generated, real: (K,), how many images have each label.
    """
    p, q = generated.double() / generated.sum(), real.double() / real.sum()
    return int(((p > 0.1 * q) & (q > 0)).sum())


def ordered_pairs(real_logits: Tensor, fake_logits: Tensor) -> float:
    """Share of pairs of a real and a generated image that D puts in the right order, ties half: the area under the ROC curve.

    Args:
        real_logits: (N,).
        fake_logits: (M,).
    """
    fake = fake_logits.sort().values
    below = torch.searchsorted(fake, real_logits)
    up_to = torch.searchsorted(fake, real_logits, right=True)
    return ((below + up_to).double().mean() / (2 * len(fake))).item()


def discriminator_gap(train: Tensor, held_out: Tensor, fake: Tensor) -> float:
    """Say how much of D's lead is memory: (E D(train) - E D(held-out)) / (E D(train) - E D(G(z))).

    0 if D takes what it never saw for real as well as what it was trained on; 1 if it takes it for generated.

    Args:
        train, held_out, fake: logits, (N,), (M,) and (L,).
    """
    lead = train.double().mean() - fake.double().mean()
    return ((train.double().mean() - held_out.double().mean()) / lead).item()


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """k(a, b) = (a.b / D + 1)^3 of all pairs of rows, (N, D), (M, D) -> (N, M)."""
    return (a / a.shape[1] @ b.T).add_(1).pow_(3)


def _kernel_sums(x: Tensor) -> Tensor:
    """Sum the kernel over pairs of each row of `x` with all others, (N, D) -> (N,) float64."""
    sums = x.new_zeros(len(x), dtype=torch.float64)
    for start in range(0, len(x), ROWS):
        rows = x[start : start + ROWS]
        kernel = _kernel(rows, x[start:])  # (ROWS, N - start): the rest is its mirror image
        sums[start : start + ROWS] += kernel.sum(1, dtype=torch.float64) - kernel.diagonal()
        sums[start + ROWS :] += kernel[:, ROWS:].sum(0, dtype=torch.float64)
    return sums
