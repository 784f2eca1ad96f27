"""From times to ratios, tables and records: pure functions."""

import dataclasses
from collections.abc import Sequence
from statistics import median


@dataclasses.dataclass
class Result:
    """The times of one variant of an implementation.

    Attributes:
      implementation: its name.
      variant: which way of it, or "".
      ms: of a meta-iteration, in each round.
      first_step_s: see `workers.Sample`.
      peak_mb: see `workers.Sample`.
    """

    implementation: str
    variant: str
    ms: list[float]
    first_step_s: float
    peak_mb: float

    @property
    def name(self) -> str:
        """Implementation and variant."""
        return label(self.implementation, self.variant)


def label(implementation: str, variant: str) -> str:
    """Returns how an implementation and its variant are called."""
    return f"{implementation} ({variant})" if variant else implementation


def ratios(ours: Result, theirs: Result) -> list[float]:
    """Returns our time ÷ theirs, round by round.

    What slows the machine in one round slows both.
    """
    return [a / b for a, b in zip(ours.ms, theirs.ms, strict=True)]


def best_variants(results: Sequence[Result]) -> list[Result]:
    """Returns the variant with the lowest median of each implementation."""
    best = {}
    for result in sorted(results, key=lambda r: median(r.ms)):
        best.setdefault(result.implementation, result)
    return list(best.values())


def best_peer(results: Sequence[Result]) -> Result | None:
    """Returns the fastest that is not ours, by the median."""
    peers = [r for r in results if r.implementation != "ours"]
    return min(peers, key=lambda r: median(r.ms), default=None)


def percent_of_peak(
    result: Result, gemm: Sequence[float], gigaflops: float
) -> float:
    """Returns the speed as a share of a matrix product's, in percent.

    Args:
      result: of an implementation.
      gemm: the matrix product's speed in each round, 10⁹ operations/s.
      gigaflops: of a meta-iteration, see `Workload.gigaflops`.
    """
    pairs = zip(result.ms, gemm, strict=True)
    return median(1e5 * gigaflops / (ms * peak) for ms, peak in pairs)


def records(workload, results: Sequence[Result], gemm) -> list[dict]:
    """Returns a dictionary for each implementation, for JSON."""
    peer = best_peer(results)
    return [
        {
            "workload": workload.name,
            "implementation": result.implementation,
            "median_ms": median(result.ms),
            "ratio_to_best_peer": peer and median(ratios(result, peer)),
            "first_step_s": result.first_step_s,
            "peak_mb": result.peak_mb,
            "percent_of_peak": percent_of_peak(
                result, gemm, workload.gigaflops()
            ),
        }
        for result in results
    ]


HEADER = (
    "implementation",
    "ms",
    "min–max",
    "ours ÷ it",
    "min–max",
    "tasks/s",
    "first s",
    "MB",
    "% peak",
)


def table(workload, results: Sequence[Result], gemm) -> str:
    """Returns what was measured of a workload, one line an implementation."""
    ours = next((r for r in results if r.implementation == "ours"), None)
    rows = [HEADER, *(_row(workload, r, ours, gemm) for r in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    title = (
        f"{workload.name}: {workload.gigaflops():.3g} GFLOP a meta-iteration; "
        f"peak {median(gemm):.0f} GFLOP/s"
    )
    return "\n".join([title, *lines, *_conclusion(ours, best_peer(results))])


def _row(workload, result, ours, gemm):
    against = ["–", "–"]
    if ours and result is not ours:
        against = _median_and_range(ratios(ours, result))
    return [
        result.name,
        *_median_and_range(result.ms),
        *against,
        _number(1e3 * workload.tasks / median(result.ms)),
        f"{result.first_step_s:.1f}",
        f"{result.peak_mb:.0f}",
        _number(percent_of_peak(result, gemm, workload.gigaflops())),
    ]


def _conclusion(ours, peer):
    if ours and peer:
        each = ratios(ours, peer)
        rounds = " ".join(map(_number, each))
        yield (
            f"ours ÷ {peer.name}, the best peer: {_number(median(each))} "
            f"(rounds: {rounds})"
        )


def _median_and_range(values):
    low, high = _number(min(values)), _number(max(values))
    return _number(median(values)), f"{low}–{high}"


def _line(row, widths):
    first, *others = zip(row, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(c.rjust(w) for c, w in others)]
    return "  ".join(cells).rstrip()


def _number(value):
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
