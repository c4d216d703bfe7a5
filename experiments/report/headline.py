"""What came out, in a sentence for each arm, and how far it is to be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.report.arms import MEASURES
from experiments.report.statistics import CONFIDENCE, FEW_SEEDS, Interval, apart
from experiments.report.summary import Summary
from federated.config.run import RunConfig
from fps_pretrain.common.wording import counted


def sentences(summaries: Sequence[Summary]) -> list[str]:
    """One sentence for each arm beside the baseline, which is the first; for a baseline alone, where it ends.

    Centralised arms have none: what they are compared with is their own start's federation (``analyses.gap``).
    """
    baseline = summaries[0]
    found = [_sentence(summary, baseline.arm) for summary in summaries[1:] if not summary.centralised]
    where = f"{100 * baseline.final:.1f}% {baseline.measure}"
    return found or [f"{baseline.arm} ends at {where}, {counted(baseline.seeds, 'seed')}."]


def _sentence(summary: Summary, baseline: str) -> str:
    difference = summary.difference
    if difference is None:
        return f"{summary.arm} shares no seed with {baseline}, so they are not compared."
    where = f"{apart(difference.mean)} {baseline}"
    if difference.pairs < 2:
        return f"{summary.arm} ends {where}, {counted(difference.pairs, 'seed')}."
    about = f"{where} {bracket(difference)}, {counted(difference.pairs, 'seed')}"
    if difference.says_nothing:
        return f"{summary.arm} cannot be told apart from {baseline}: it ends {about}."
    return f"{summary.arm} ends {about}."


def bracket(interval: Interval) -> str:
    """An interval's ends in percentage points; with signs unless both are positive."""
    signs = "+" if interval.low <= 0 else ""
    low, high = (round(100 * end, 1) + 0.0 for end in (interval.low, interval.high))  # + 0.0: no minus before zero
    return f"[{low:{signs}.1f}, {high:{signs}.1f}]"


def cautions(summaries: Sequence[Summary], others: int = 0, failed: Sequence[str] = ()) -> list[str]:
    """What a reader should know before believing the intervals: missing runs, few seeds, many intervals, or another
    measure.

    Args:
        summaries: the arms.
        others: how many intervals the page holds beside those of the arms.
        failed: names of runs that should be here.
    """
    found = []
    if failed:
        found.append(f"Left out, since they failed: {', '.join(failed)}.")
    baseline = summaries[0]
    for one in summaries[1:]:
        if one.difference and one.has_other_seeds_than(baseline):
            found.append(
                f"{one.arm} has {counted(one.seeds, 'seed')}, {baseline.arm} {baseline.seeds}: they are compared over "
                f"the {one.difference.pairs} of both, and their means are over all of their own."
            )
    if summaries[0].measure != MEASURES["test_accuracy"]:
        found.append(
            "Clients keep their own heads: these are mean accuracies at the clients, not accuracies on the test set."
        )
    pairs = [summary.difference.pairs for summary in summaries if summary.difference]
    if pairs and min(pairs) == 1:
        found.append("From one seed there is no interval: another seed may turn the result round.")
    elif pairs and min(pairs) < FEW_SEEDS:
        found.append(f"An interval from {min(pairs)} seeds means little: run at least {FEW_SEEDS}.")
    if number := others + sum(len(summary.intervals) for summary in summaries):
        chance = min(1.0, number * (1 - CONFIDENCE))
        found.append(
            f"This page holds {number} interval{'s' if number > 1 else ''} of {CONFIDENCE:.0%} each, not corrected for "
            f"their number: were all arms alike, the chance that at least one excludes 0 would be up to {chance:.0%}."
        )
    return found


def at_one_rate(configs: Iterable[RunConfig]) -> list[str]:
    """What to know of runs whose learning rates were not chosen: one may suit one start better than another.

    Nothing where they have several.
    """
    rates = {config.lr for config in configs}
    return [f"All at --lr {rates.pop():g}; --lrs finds each start's own."] if len(rates) == 1 else []
