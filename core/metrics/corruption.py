"""Mean corruption error, from the errors of a classifier under each corruption and severity."""

from collections.abc import Mapping, Sequence


def corruption_error(
    errors: Sequence[float], baseline: Sequence[float] | float | None = None, *, clean: tuple[float, float] = (0.0, 0.0)
) -> float:
    """The error under one corruption: ``sum_s (E_s - E_clean) / sum_s (B_s - B_clean)``.

    `errors` are top-1 errors in [0, 1] by severity, `baseline` those of the network that normalises them (AlexNet for
    ImageNet-C), or their mean over the severities; without a baseline the mean of `errors` is returned, as is usual for
    CIFAR-10-C. `clean` are the errors of both on clean images, for the relative error; (0, 0) for the plain one.

    Source: Hendrycks and Dietterich (ICLR 2019), section 4. Law: a network has error 1 against itself. ValueError for
    no severities, different numbers of them, and a baseline that makes no more errors than on clean images.
    """
    if not errors:
        raise ValueError("a corruption error needs the errors of at least one severity")
    own = sum(error - clean[0] for error in errors)
    if baseline is None:
        return own / len(errors)
    others = [float(baseline)] * len(errors) if isinstance(baseline, int | float) else list(baseline)
    if len(others) != len(errors):
        raise ValueError(f"errors need as many severities as the baseline, got {len(errors)} and {len(others)}")
    whole = sum(error - clean[1] for error in others)
    if whole <= 0:
        raise ValueError("the baseline makes no more errors under the corruption than without it: nothing to divide by")
    return own / whole


def mean_corruption_error(
    errors: Mapping[str, Sequence[float]],
    baselines: Mapping[str, Sequence[float] | float] | None = None,
    *,
    clean: tuple[float, float] = (0.0, 0.0),
) -> float:
    """Mean of `corruption_error` over corruptions (mCE). ValueError for none, and for one without a baseline."""
    if not errors:
        raise ValueError("a mean corruption error needs at least one corruption")
    if baselines is not None and (absent := sorted(set(errors) - set(baselines))):
        raise ValueError(f"there is no baseline for {', '.join(absent)}")
    each = [corruption_error(e, None if baselines is None else baselines[n], clean=clean) for n, e in errors.items()]
    return sum(each) / len(each)
