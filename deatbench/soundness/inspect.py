"""Checks of the model itself, before it is attacked: can a gradient attack see what the model does?

`randomised`, `softmax_output` and `zero_gradient` after AutoAttack's checks (Croce, Hein 2020, arXiv 2003.01690),
`interrupted_graph` after the indicators of attack failure (Pintor et al. 2022, arXiv 2106.09947), `unbounded_fails`,
in unbounded.py, after Carlini et al. 2019 (arXiv 1902.06705). A gradient is only blamed where finite differences
contradict it, so that a dead but honest ReLU network is left in peace.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from deatbench.attacks.borrow import mode
from deatbench.attacks.gradient import InterruptedGradient, cross_entropy, input_gradient, margin
from deatbench.attacks.rng import BatchRng
from deatbench.data import Images
from deatbench.records import Flag
from deatbench.soundness.unbounded import unbounded_fails
from deatbench.threats import ThreatModel

IMAGES = 64
FORWARDS = 5
SAME_LOGITS = 1e-4  # AutoAttack's threshold; honest forward passes agree to 1e-7
SAME_IN_BATCH = 1e-3  # another batch size may take another kernel, which rounds otherwise
PROBABILITY_SUM = 1e-4
HONEST_RATIO = (0.2, 5.0)  # finite difference over what the gradient promises; 1 for a smooth network
DISHONEST_SHARE = 0.1  # kinks make a ratio leave the range now and then; a spoofed gradient leaves it everywhere
SMALL_MOVE = 1 / 1020  # a quarter of a pixel value: short enough for the most curved undefended network
ROUNDING = 1e-5  # float32 noise of a margin, in units of the largest logit


def inspect_model(model: nn.Module, images: Images, threat: ThreatModel, *, device: torch.device) -> list[Flag]:
    """The flags that the first 64 images raise. The model is used in eval mode and left as it was found."""
    indices_N = torch.arange(min(IMAGES, len(images)))
    x_NCHW, y_N = next(iter(images.batches([indices_N], device)))
    devices = [x_NCHW.device] if x_NCHW.is_cuda else []
    with mode(model, training=False), torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        return list(_inspect(model, x_NCHW, y_N, threat))


def _inspect(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel) -> Iterator[Flag]:
    logits_NK = _forward(model, x_NCHW)
    yield from softmax_output(logits_NK)
    yield from nonfinite_logits(model, x_NCHW, threat)
    randomised_model = list(randomised(model, x_NCHW, y_N, logits_NK))
    yield from randomised_model
    interrupted = list(interrupted_graph(model, x_NCHW, y_N))
    yield from interrupted
    if randomised_model:
        return  # the other checks compare forward passes, which differ by themselves
    yield from batch_dependent(model, x_NCHW, logits_NK)
    if not interrupted:
        yield from zero_gradient(model, x_NCHW, y_N, threat)
        yield from false_gradient(model, x_NCHW, y_N)
        yield from unbounded_fails(model, x_NCHW, y_N, logits_NK)


def softmax_output(logits_NK: Tensor) -> Iterator[Flag]:
    """Probabilities instead of logits: cross-entropy on them is flat, attacks that take its gradient stall."""
    sums_N = logits_NK.sum(1)
    if bool((logits_NK >= 0).all() and ((sums_N - 1).abs() <= PROBABILITY_SUM).all()):
        yield Flag(code="softmax_output", message="the model returns probabilities instead of logits")


def nonfinite_logits(model: nn.Module, x_NCHW: Tensor, threat: ThreatModel) -> Iterator[Flag]:
    """Inside the ball the network must answer with numbers: NaN counts as wrong, but stops attacks."""
    generator = torch.Generator(x_NCHW.device).manual_seed(0)
    near_NK = _forward(model, threat.random_start(x_NCHW, BatchRng(generator)))
    nonfinite = int((~near_NK.isfinite().all(1)).sum())
    if nonfinite:
        message = f"beside {nonfinite} of {len(x_NCHW)} images, within eps, the model returns NaN or infinite logits"
        yield Flag(code="nonfinite_logits", message=message)


def randomised(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, logits_NK: Tensor) -> Iterator[Flag]:
    """Five forward passes of the same images must agree; against randomness the attack must average (EoT)."""
    passes = [logits_NK, *(_forward(model, x_NCHW) for _ in range(FORWARDS - 1))]
    correct = {int((logits.argmax(1) == y_N).sum()) for logits in passes}
    if len(correct) > 1 or max(_difference(logits, logits_NK) for logits in passes) > SAME_LOGITS:
        yield Flag(code="randomised", message="the same image gets other logits in each forward pass")


def batch_dependent(model: nn.Module, x_NCHW: Tensor, logits_NK: Tensor) -> Iterator[Flag]:
    """An image's logits must not change with its batch mates (batch norm left in training mode)."""
    if len(x_NCHW) < 2:
        return
    parts = x_NCHW.split(max(2, len(x_NCHW) // 4))
    alone_NK = torch.cat([_forward(model, part) for part in parts])
    if _difference(alone_NK, logits_NK) > SAME_IN_BATCH:
        yield Flag(code="batch_dependent", message="an image's logits change with the other images of its batch")


def interrupted_graph(model: nn.Module, x_NCHW: Tensor, y_N: Tensor) -> Iterator[Flag]:
    """The loss must depend differentiably on the pixels (JPEG, numpy or a detach in the model cut the graph)."""
    try:
        input_gradient(model, x_NCHW[:2], y_N[:2], cross_entropy)
    except InterruptedGradient:
        yield Flag(
            code="interrupted_graph",
            message="the model cuts the gradient: white-box attacks cannot run on it and count as no success",
        )


def zero_gradient(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel) -> Iterator[Flag]:
    """No gradient may vanish while the margin can be moved.

    Saturated (huge logits): the margin has a gradient, cross-entropy has none; one image is enough. Rounded: neither
    has one, yet the margin changes inside the ball; a small ReLU network may honestly be dead at some images, so it
    takes a tenth of them.
    """
    zero_ce_N, zero_margin_N = (
        (input_gradient(model, x_NCHW, y_N, loss) == 0).flatten(1).all(1) for loss in (cross_entropy, margin)
    )
    saturated = int((zero_ce_N & ~zero_margin_N).sum())
    rounded = int((zero_margin_N & _margin_changes(model, x_NCHW, y_N, threat)).sum())
    if saturated:
        message = f"the cross-entropy gradient is zero on {saturated} of {len(x_NCHW)} images: the logits saturate it"
        yield Flag(code="zero_gradient", message=message)
    elif rounded > DISHONEST_SHARE * len(x_NCHW):
        message = f"the gradient is zero on {rounded} of {len(x_NCHW)} images whose logits do change inside the ball"
        yield Flag(code="zero_gradient", message=message)


def false_gradient(model: nn.Module, x_NCHW: Tensor, y_N: Tensor) -> Iterator[Flag]:
    """A small move along the gradient's sign must change the margin by about what the gradient promises."""
    x_NCHW = x_NCHW.clamp(SMALL_MOVE, 1 - SMALL_MOVE)  # so that both ends of the move are images
    gradient = input_gradient(model, x_NCHW, y_N, margin)
    promised_N = 2 * SMALL_MOVE * gradient.abs().flatten(1).sum(1)
    move = SMALL_MOVE * gradient.sign()
    ends_NK = _forward(model, x_NCHW + move), _forward(model, x_NCHW - move)
    found_N = margin(ends_NK[0], y_N) - margin(ends_NK[1], y_N)
    noise_N = ROUNDING * ends_NK[0].abs().amax(1)
    ratio_N = found_N / promised_N.clamp_min(1e-30)
    judged_N = (promised_N > noise_N) | (found_N.abs() > noise_N)
    judged_N &= gradient.flatten(1).any(1)  # zero gradients are zero_gradient's
    false = int((judged_N & ~((ratio_N >= HONEST_RATIO[0]) & (ratio_N <= HONEST_RATIO[1]))).sum())
    if false > DISHONEST_SHARE * len(x_NCHW):
        message = f"on {false} of {len(x_NCHW)} images the margin does not follow the model's own gradient"
        yield Flag(code="false_gradient", message=message)


def _forward(model: nn.Module, x_NCHW: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x_NCHW).float()


def _difference(a_NK: Tensor, b_NK: Tensor) -> float:
    """Largest difference of two batches of logits, each image's scaled to length 1."""
    a_NK, b_NK = nn.functional.normalize(a_NK, dim=1), nn.functional.normalize(b_NK, dim=1)
    return float((a_NK - b_NK).abs().max())


def _margin_changes(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel) -> Tensor:
    """Where a random step of length eps, one of two, changes the margin beyond rounding; bool [N]."""
    logits_NK = _forward(model, x_NCHW)
    moved = [threat.project(threat.ascend(x_NCHW, torch.randn_like(x_NCHW), threat.eps), x_NCHW) for _ in range(2)]
    changes = [(margin(_forward(model, x_moved), y_N) - margin(logits_NK, y_N)).abs() for x_moved in moved]
    return torch.stack(changes).amax(0) > ROUNDING * logits_NK.abs().amax(1)
