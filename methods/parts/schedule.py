"""Learning-rate factors as pure functions of the global step, so that nothing has to be restored or re-based.

The step counts finished updates from 0, as in the originals: the first step of a warm-up has factor 0, and a model
cut in the middle of training continues on the same line.
"""

SCHEDULES = ("linear", "constant")


def factor(step: int, total_steps: int, warmup_steps: float, schedule: str) -> float:
    """What the learning rate is multiplied by in the update after `step` updates.

    Rises as step / warmup_steps, then stays 1 (constant) or falls as (total - step) / (total - warmup) to 0 at the
    end (linear). `warmup_steps` need not be whole: the BERT-Adam rule compares step / total with a fraction, which
    this equals.
    """
    if step < warmup_steps:
        return step / warmup_steps
    if schedule == "constant":
        return 1.0
    return max(0.0, (total_steps - step) / max(total_steps - warmup_steps, 1e-12))


def rounded_steps(num_examples: int, batch_size: int, epochs: float, warmup: float) -> tuple[int, int]:
    """Total and warm-up updates by LAD's rule: epochs count fractions of a batch, and one warm-up step is the least.

    References:
        Lin, Chen, Kao: LAD: Layer-Wise Adaptive Distillation for BERT Model Compression, Sensors 2023, 23(3):1483,
        released code: round(n / batch * epochs), and round(n / batch * epochs * warmup) or 1.
    """
    exact = num_examples / batch_size * epochs
    return round(exact), round(exact * warmup) or 1
