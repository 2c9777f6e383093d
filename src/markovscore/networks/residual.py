"""A network that learns what a closed-form score leaves."""

import copy
import re
from typing import Any

import torch
from torch import Tensor, nn

from ..core import (
    Score,
    ScoreModel,
    as_input,
    as_score,
    as_tensor,
    check_field,
    check_time,
    crc32,
    field_and_divergence,
    named_checksum,
    original,
    score_and_divergence,
)


class ResidualScore(nn.Module):
    r"""``s(x, t) = base(x, t) + network(x, t)``: the operator-informed head start (paper A).

    .. math:: s_\theta(x, t) = s_{base}(x, t) + r_\theta(x, t)

    Trained as any network, by :func:`train` and any objective, the residual is what is learned.
    Its divergence is the base's own, in closed form, plus the network's, exact or estimated.

    ``base`` belongs to nobody's parameters: it is not in ``parameters()``, ``buffers()`` or
    ``state_dict()``, ``copy.deepcopy`` (the running average of ``train``) shares it, and
    ``to(device)`` leaves it alone: its results follow the dtype and device of ``x``. Gradients flow
    through it to ``x``, so that implicit score matching and exact traces work.

    Args:
        base: a score ``(x (B, d), t) -> (B, d)`` without trainable parameters, with
            ``score_and_divergence`` or ``divergence`` where it has a closed form: what
            ``fit_spectral`` returns.
        network: a score by a network, e.g. :class:`ScoreUNet` or :class:`ScoreMLP`.

    Attributes:
        time_range: first and last time of the base, where it has ``times``, else None. Samplers
            stay within it and put their default steps there; the base's own grid, which may be much
            finer than a flow needs, is not taken over: there is no ``times``.
        finest_time: that of the base, where it has one: a sampler that starts later says so.

    Raises:
        TypeError: a base that cannot be called, or a network that is not a ``torch.nn.Module``.
        ValueError: a base with trainable parameters; at a call, one of the two returns another
            shape than ``x``, and what they raise themselves.
    """

    _model: ScoreModel

    def __init__(self, base: Score, network: nn.Module):
        super().__init__()
        if not callable(base):
            raise TypeError(
                f"base: expected a callable (x, t) -> (B, d), found {type(base).__name__}: "
                "pass the result of fit_spectral"
            )
        as_score(base, "base")
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"network: expected a torch.nn.Module, found {type(network).__name__}: "
                "pass ScoreUNet or ScoreMLP; the order is ResidualScore(base, network)"
            )
        if isinstance(base, nn.Module) and any(p.requires_grad for p in base.parameters()):
            raise ValueError(
                "base: expected no trainable parameters, found some: freeze it with "
                "base.requires_grad_(False)"
            )
        # Past nn.Module's own assignment, which would register a base that is a module.
        object.__setattr__(self, "_model", as_score(base))
        self.network = network

    @property
    def base(self) -> Any:
        """The score that is built upon, as it was given."""
        return original(self._model)

    @property
    def time_range(self) -> Tensor | None:
        """First and last time ``(2,)`` of the base, or None (``(1,)`` if it has but one)."""
        times = self._model.times
        return None if times is None else torch.unique(torch.as_tensor(times)[[0, -1]])

    @property
    def finest_time(self) -> float | None:
        """That of the base, or None."""
        return self._model.finest_time

    @property
    def checksum(self) -> str:
        """A string for the base, by which a checkpoint refuses another one.

        Its own ``checksum``, else one of its printed form (without addresses) and of its tensors.
        """
        given = self._model.checksum
        if given is not None:
            return str(given)
        own = getattr(self.base, "__dict__", {}).items()
        printed = re.sub(r" at 0x[0-9a-f]+", "", repr(self.base))
        tensors = {k: v for k, v in own if isinstance(v, Tensor)}
        return f"{type(self.base).__name__} crc32 {named_checksum(tensors, crc32(printed))}"

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Score ``(B, d)`` at ``x`` ``(B, d)`` and ``t``: one, ``(B,)`` or ``(B, 1)``."""
        x = self._points(x)
        t = check_time(t, len(x), like=x)
        base = check_field(self._model(x, t), x, "base")
        return base + check_field(self.network(x, t), x, "network")

    def score_and_divergence(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Score ``(B, d)`` and its exact divergence ``(B,)``: ``d`` backward passes of the network.

        For images use :meth:`probe_divergence`, as ``log_likelihood(trace="hutchinson")`` does.
        """
        return self._add(self._points(x), t, None)

    def probe_divergence(
        self, x: Tensor, t: float | Tensor, probe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score ``(B, d)`` and an unbiased estimate of its divergence ``(B,)``, one backward pass.

        ``probe`` ``(B, d)`` has independent entries of mean zero and variance one, e.g. random
        signs (Hutchinson 1990): ``div base + probe^T (D network) probe``. A base without a closed
        form is estimated by the same probe.
        """
        x = self._points(x)
        return self._add(x, t, check_field(probe, x, "probe")[:, None])

    def unchecked(self, x: Tensor) -> "ResidualScore":
        """The same score for a flow from ``x``, whose base has checked it and does not again."""
        if self._model.unchecked is None:
            return self
        other = copy.copy(self)
        object.__setattr__(other, "_model", as_score(self._model.unchecked(self._points(x))))
        return other

    def _points(self, x: Tensor) -> Tensor:
        parameter = next(self.network.parameters(), None)
        x = as_tensor(x) if parameter is None else as_input(x, parameter)
        if x.ndim < 2 or 0 in x.shape[1:]:
            raise ValueError(
                f"x: expected points (B, d) or images (B, C, H, W), found shape {tuple(x.shape)}: "
                "one point is x[None]"
            )
        return x

    def _add(self, x: Tensor, t: float | Tensor, signs: Tensor | None) -> tuple[Tensor, Tensor]:
        t = check_time(t, len(x), like=x)
        base, base_divergence = score_and_divergence(self._model, x, t, signs)
        residual, divergence = field_and_divergence(self.network, x, t, signs)
        return base + residual, base_divergence + divergence

    def __deepcopy__(self, memo: dict[int, Any]) -> "ResidualScore":
        memo[id(self.base)] = self.base
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__dict__ = copy.deepcopy(self.__dict__, memo)
        return other
