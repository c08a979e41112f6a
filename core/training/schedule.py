"""The learning rate as a pure function of (epoch, step): a resumed run can neither lose nor repeat a decay."""

import math

from stillpoint.core.config.schema import TrainConfig

# as in torch's OneCycleLR: rises over the first 30 % from 1/25 of the rate, and ends at 1/10,000 of its start
_RISE, _START, _END = 0.3, 1 / 25, 1e-4


def _cosine(begin: float, end: float, part: float) -> float:
    return end + (begin - end) / 2 * (1 + math.cos(math.pi * part))


def _one_cycle(position: float, total: float) -> float:
    """The rate's factor at `position` (0 to total - 1) of `total` moves (Smith and Topin, arXiv 1708.07120)."""
    top, last = _RISE * total - 1, total - 1
    if position <= top:
        return _cosine(_START, 1.0, position / top)
    return _cosine(1.0, _START * _END, min((position - top) / (last - top), 1.0))


def rate(train: TrainConfig, epoch: int, step: int, steps_per_epoch: int) -> float:
    """The learning rate of optimiser step `step` of `epoch`, both counted from 0.

    With SCHEDULE_PER epoch the rate is constant during an epoch; with step it moves at every step. The cosine falls
    from LR to LR_MIN over all moves of the run, COSINE_OFFSET moves ahead: 0 starts at LR itself (CosineAnnealingLR
    stepped after its epoch), 1 ends at LR_MIN (stepped before it). Linear falls there along a line. Poly is LR times
    (1 - moves done / all moves) to the power POLY_POWER, never below LR_MIN. The step and multistep schedules decay at
    whole epochs either way. A warm-up of n steps multiplies the schedule's rate by a linear rise from 1/n to 1; with
    WARMUP before it rises from 0 to 1, and a cosine or a line per step begins after it.
    """
    per_step = train.schedule_per == "step"
    position = epoch * steps_per_epoch + step if per_step else epoch
    moves = train.epochs * (steps_per_epoch if per_step else 1)
    warmup, done = round(train.warmup_epochs * steps_per_epoch), epoch * steps_per_epoch + step
    if train.warmup == "before" and per_step and train.schedule in ("cosine", "linear"):
        position, moves = max(position - warmup, 0), max(moves - warmup, 1)
    if train.schedule == "step":
        value = train.lr * train.gamma ** (epoch // train.step_epochs)
    elif train.schedule == "multistep":
        value = train.lr * train.gamma ** sum(milestone <= epoch for milestone in train.milestones)
    elif train.schedule == "cosine":
        value = _cosine(train.lr, train.lr_min, min((position + train.cosine_offset) / moves, 1.0))
    elif train.schedule == "linear":
        value = train.lr + (train.lr_min - train.lr) * position / moves
    elif train.schedule == "poly":
        value = max(train.lr * (1 - position / moves) ** train.poly_power, train.lr_min)
    elif train.schedule == "one_cycle":
        value = train.lr * _one_cycle(position, moves)
    else:
        value = train.lr
    if train.warmup == "before":
        return value * min(done / (warmup - 1), 1.0) if warmup > 1 else value
    return value * min((done + 1) / warmup, 1.0) if warmup else value


def side(train: TrainConfig, epoch: int) -> int | None:
    """The side to which training images of `epoch`, counted from 0, are shrunk; None: they keep their size."""
    return train.sides[epoch * len(train.sides) // train.epochs] if train.sides else None
