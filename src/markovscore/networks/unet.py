"""A U-Net score for images: the network of denoising diffusion models, at any size."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from ..core import as_input, check_from_start, check_integer, expand_like, ordinary_tensors
from .mlp import N_FREQUENCIES, initialise, linear, time_features, time_frequencies

Shifts = Iterator[Tensor]


class ScoreUNet(nn.Module):
    r"""Score ``s(x, t)`` of images by the U-Net of Ho et al. 2020 (arXiv:2006.11239, appendix B).

    .. math:: s(x, t) = \frac{1}{\sigma(t)}\, U(x, e(t))

    ``U`` halves the resolution between levels (strided convolution), then doubles it (nearest
    neighbour, convolution), and joins the ways down and up at every block. A residual block is
    group normalisation, SiLU, 3x3 convolution, twice, with a shift by ``W e(t)`` between; ``e(t)``
    is a two-layer perceptron of the features of ``ScoreMLP``. Self-attention of one head follows
    the blocks at the resolutions of ``attention``, and sits between the two blocks at the bottom.
    Residual branches start at zero and the last layer a hundred times smaller than the others, so
    training starts close to the zero score. There is no dropout: the network uses no randomness,
    and an interrupted training run can be resumed exactly.
    With ``std`` given, :math:`\sigma(t)` is the noise scale of the transition and ``U`` predicts
    minus the noise; else :math:`\sigma = 1`.
    ``ScoreUNet((3, 32, 32), channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,))`` is
    the CIFAR-10 network of that paper (35.7 million parameters).

    Args:
        shape: ``(C, H, W)``; ``H`` and ``W`` divisible by ``2 ** (len(multipliers) - 1)``.
        channels: width of the first level, a multiple of 4.
        multipliers: width of each level, in units of ``channels``; one level for each.
        blocks: residual blocks of a level on the way down; one more on the way up.
        attention: heights of the feature maps that get attention, e.g. ``(16,)``.
        std: a function of ``t`` ``(B,)``, e.g. ``diffusion.std``; ``t`` must then be positive.
        bf16: on CUDA, convolutions and products run in bfloat16 (autocast); parameters and result
            stay float32. On a CPU it has no effect: bfloat16 is slower there where the processor
            lacks it, and results would depend on that.
        generator: source of the initial weights, on the CPU; by default one seeded with 0, so that
            two networks built alike are equal. The global random state is neither read nor changed.

    Raises:
        ValueError: sizes that are not positive integers or do not divide, an attention resolution
            that no level has; at a call, images of another size, or ``t`` neither
            one time nor one for each image.
        TypeError: the images have another dtype than the parameters.
    """

    frequencies: Tensor

    @ordinary_tensors()
    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: Sequence[int] = (),
        std: Callable[[Tensor], Tensor] | None = None,
        bf16: bool = False,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        shape, multipliers = _sizes(shape, "shape"), _sizes(multipliers, "multipliers")
        attention = _sizes(attention, "attention") if len(attention) else ()
        channels, blocks = check_integer(channels, "channels"), check_integer(blocks, "blocks")
        _check_sizes(shape, channels, multipliers, attention)
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        self.shape, self.std, self.bf16 = tuple(shape), std, bf16
        self.dim = math.prod(shape)
        images, height, _ = shape
        widths = [channels * m for m in multipliers]
        heights = [height >> level for level in range(len(widths))]
        self.register_buffer("frequencies", time_frequencies())
        self.time = nn.Sequential(
            linear(2 * N_FREQUENCIES, 4 * channels, generator),
            nn.SiLU(),
            linear(4 * channels, 4 * channels, generator),
            nn.SiLU(),
        )
        self.first = _conv(images, channels, generator)
        self.down = nn.ModuleList()
        skips, c = [channels], channels
        for level, width in enumerate(widths):
            inputs = [c] + [width] * (blocks - 1)
            last = level == len(widths) - 1
            self.down.append(_Down(inputs, width, heights[level] in attention, last, generator))
            skips += [width] * (blocks if last else blocks + 1)
            c = width
        self.middle, self.up = _Middle(c, generator), nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            inputs = [(c if i == 0 else width) + skips.pop() for i in range(blocks + 1)]
            self.up.append(_Up(inputs, width, heights[level] in attention, level == 0, generator))
            c = width
        self.norm, self.out = _norm(c), _conv(c, images, generator, gain=0.01)
        # One matrix product makes the shifts of all the blocks, in the order of their use.
        self._splits = [m.outputs for m in self.modules() if isinstance(m, _Block)]
        self.shifts = linear(4 * channels, sum(self._splits), generator)

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Score at the images ``x`` and times ``t``: one, ``(B,)`` or ``(B, 1)``.

        ``x`` is ``(B, C H W)``, the rows of all other scores, or ``(B, C, H, W)``; the result has
        its shape. It can be differentiated twice, with respect to ``x`` and the parameters.
        """
        x = self._checked(x)
        t = check_from_start(expand_like(t, x.flatten(1)))
        with torch.autocast("cuda", torch.bfloat16, enabled=self.bf16 and x.is_cuda):
            y = self._net(x.reshape(-1, *self.shape), t, x.requires_grad)
        y = y.to(x.dtype).reshape(x.shape)
        return y if self.std is None else y / expand_like(self.std(t[:, 0]), y)

    def _net(self, x: Tensor, t: Tensor, twice: bool) -> Tensor:
        embedding = self.time(time_features(t, self.frequencies))
        shifts = iter(self.shifts(embedding)[:, :, None, None].split(self._splits, 1))
        # The weights keep the default format: it measured as fast, and a fused Adam whose state has
        # been reloaded in another format than that of the weights updates the wrong entries.
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        skips = [h]
        for level in self.down:
            skips += level(skips[-1], shifts, twice)
        h = self.middle(skips[-1], shifts, twice)
        for level in self.up:
            h = level(h, skips, shifts, twice)
        return self.out(silu(self.norm(h)))

    def _checked(self, x: Tensor) -> Tensor:
        x = as_input(x, self.out.weight)
        if x.shape[1:] not in ((self.dim,), self.shape):
            raise ValueError(
                f"x: expected shape (B, {self.dim}) or (B, {', '.join(map(str, self.shape))}), "
                f"found {tuple(x.shape)}: build the network with shape=(C, H, W) of the images"
            )
        if x.dtype != self.out.weight.dtype:
            raise TypeError(
                f"x: expected the network's dtype {self.out.weight.dtype}, found {x.dtype}: "
                f"convert the images, or the network with net.to({x.dtype})"
            )
        return x


class _Block(nn.Module):
    """``h + conv(silu(norm(conv(silu(norm(h))) + shift)))``; ``h`` by a 1x1 layer if it widens."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator):
        super().__init__()
        self.outputs = outputs
        self.norm1, self.conv1 = _norm(inputs), _conv(inputs, outputs, generator)
        self.norm2, self.conv2 = _norm(outputs), _conv(outputs, outputs, generator, gain=0.0)
        same = inputs == outputs
        self.skip = nn.Identity() if same else _conv(inputs, outputs, generator, kernel=1)

    def forward(self, h: Tensor, shift: Tensor) -> Tensor:
        y = self.conv1(silu(self.norm1(h))) + shift
        return self.skip(h) + self.conv2(silu(self.norm2(y)))


class _Attention(nn.Module):
    """``h + W softmax(q k^T / sqrt(c)) v`` over the pixels of the normalised ``h``."""

    def __init__(self, channels: int, generator: torch.Generator):
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = linear(channels, 3 * channels, generator)
        self.out = linear(channels, channels, generator, gain=0.0)

    def forward(self, h: Tensor, twice: bool) -> Tensor:
        q, k, v = self.qkv(self.norm(h).flatten(2).mT).chunk(3, dim=-1)
        if twice:  # the fused kernels have no second derivative
            mixed = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v
        else:
            mixed = scaled_dot_product_attention(*(z[:, None] for z in (q, k, v)))[:, 0]
        return h + self.out(mixed).mT.unflatten(2, h.shape[2:])


class _Level(nn.Module):
    """One level: its blocks, then another resolution unless it is the last."""

    stride = 1

    def __init__(
        self, inputs: list[int], width: int, attend: bool, last: bool, generator: torch.Generator
    ):
        super().__init__()
        self.blocks = nn.ModuleList(_Block(c, width, generator) for c in inputs)
        self.attention = nn.ModuleList(_Attention(width, generator) for _ in inputs if attend)
        self.resample = None if last else _conv(width, width, generator, stride=self.stride)


class _Down(_Level):
    """On the way down, then half the resolution."""

    stride = 2

    def forward(self, h: Tensor, shifts: Shifts, twice: bool) -> list[Tensor]:
        """All outputs in order, for the way up to join; the last is the level's result."""
        outputs = []
        for i, block in enumerate(self.blocks):
            h = block(h, next(shifts))
            h = self.attention[i](h, twice) if self.attention else h
            outputs.append(h)
        return outputs if self.resample is None else [*outputs, self.resample(h)]


class _Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        self.before = _Block(width, width, generator)
        self.attention = _Attention(width, generator)
        self.after = _Block(width, width, generator)

    def forward(self, h: Tensor, shifts: Shifts, twice: bool) -> Tensor:
        h = self.attention(self.before(h, next(shifts)), twice)
        return self.after(h, next(shifts))


class _Up(_Level):
    """On the way up: each block joins an output of the way down; twice the resolution."""

    def forward(self, h: Tensor, skips: list[Tensor], shifts: Shifts, twice: bool) -> Tensor:
        for i, block in enumerate(self.blocks):
            h = block(torch.cat([h, skips.pop()], dim=1), next(shifts))
            h = self.attention[i](h, twice) if self.attention else h
        if self.resample is None:
            return h
        return self.resample(interpolate(h, scale_factor=2.0, mode="nearest"))


def _conv(
    inputs: int,
    outputs: int,
    generator: torch.Generator,
    *,
    kernel: int = 3,
    stride: int = 1,
    gain: float = 1.0,
) -> nn.Conv2d:
    """A convolution that keeps the size (times 1/stride), weights ``N(0, gain^2 / fan-in)``."""
    layer = nn.utils.skip_init(
        nn.Conv2d, inputs, outputs, kernel, stride=stride, padding=kernel // 2
    )
    return initialise(layer, gain / math.sqrt(inputs * kernel**2), generator)


def _norm(channels: int) -> nn.GroupNorm:
    """Up to 32 groups, of four channels or more."""
    return nn.GroupNorm(math.gcd(channels // 4, 32), channels, eps=1e-6)


def _sizes(values: Sequence[int], name: str) -> tuple[int, ...]:
    """``values`` as integers, one or more."""
    try:
        found = list(values)
    except TypeError:
        found = []
    if not found:
        raise ValueError(f"{name}: expected integers >= 1, found {values!r}: pass a tuple")
    return tuple(check_integer(value, name) for value in found)


def _check_sizes(
    shape: Sequence[int], channels: int, multipliers: Sequence[int], attention: Sequence[int]
) -> None:
    if len(shape) != 3:
        raise ValueError(f"shape: expected (C, H, W), found {tuple(shape)}")
    if channels % 4:
        raise ValueError(f"channels: expected a multiple of 4, found {channels}")
    _, height, width = shape
    factor = 2 ** (len(multipliers) - 1)
    if height % factor or width % factor:
        raise ValueError(
            f"shape: expected height and width divisible by {factor}, found {height} x {width}: "
            f"{len(multipliers)} levels halve them {len(multipliers) - 1} times, so use fewer "
            "multipliers, or pad the images"
        )
    heights = [height >> level for level in range(len(multipliers))]
    for resolution in attention:
        if resolution not in heights:
            raise ValueError(
                f"attention: expected resolutions among {heights}, found {resolution}: "
                "they are the heights of the levels' feature maps"
            )
