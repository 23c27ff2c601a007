"""The figures that were promised, each measured from stored results: target, measured, reached or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks import faults, objects
from benchmarks.arms import ARMS
from benchmarks.sparsity import alpha_of
from benchmarks.tables import Series, difference, interval_text
from fewslice.metrics.intervals import Interval, student

__all__ = [
    "Outcome",
    "best",
    "cost_ratios",
    "forecasts",
    "outcomes",
    "plane_ratios",
    "planes_needed",
    "seconds_to",
]

STUDENTS = tuple(name for name, arm in ARMS.items() if arm.is_student)
RIVALS = tuple(name for name, arm in ARMS.items() if not arm.is_student)
STEPS = ("none", "affine", "morphology", "continuity")
"""Arms of the ablation of spatial continuity, each of which adds one step to the one before."""
_ENOUGH = 5
_ENOUGH_SEEDS = 3
_KILLS = 200


@dataclass(frozen=True)
class Outcome:
    """One line of the table of targets.

    Attributes
    ----------
    what, target, measured
        Text.
    reached
        None where it cannot be said yet.
    command
        What measures it.
    """

    what: str
    target: str
    measured: str
    reached: bool | None
    command: str


def at(series: Series, setting: str, arm: str, planes: int, alpha: float | None = None) -> Series:
    """Give the results of one arm; `alpha` counts for students only, and is by default that of the main tables."""
    found = series.where(setting=setting, arm=arm, planes=planes)
    if not ARMS[arm].is_student:
        return found
    return found.where(alpha=alpha_of(setting, planes) if alpha is None else alpha)


def best(series: Series, setting: str, arms: Sequence[str], planes: int) -> str | None:
    """Name the arm with the highest mean Dice; None without results."""
    means = {arm: interval.mean for arm in arms if (interval := at(series, setting, arm, planes).interval("dice"))}
    return max(means, key=lambda arm: means[arm]) if means else None


def seconds_to(curve: Sequence[dict[str, float]], dice: float) -> float:
    """Give the processor seconds at which a curve first reaches `dice`, interpolated; infinite if it never does."""
    before: dict[str, float] | None = None
    for point in curve:
        if point["dice"] >= dice:
            if before is None or point["dice"] == before["dice"]:
                return point["cpu"]
            share = (dice - before["dice"]) / (point["dice"] - before["dice"])
            return before["cpu"] + share * (point["cpu"] - before["cpu"])
        before = point
    return math.inf


def cost_ratios(series: Series, arm: str, share: float) -> dict[int, float]:
    """Give, by draw, the student's processor seconds over the sparse arm's to the same Dice, teacher included.

    Parameters
    ----------
    series
        Results with curves.
    arm
        The student.
    share
        The Dice to be reached, as a share of the best that the sparse arm reaches in that draw.
    """
    by_arm = {
        name: {int(r["cell"]["draw"]): r["curve"] for r in series.where(setting="phantom_cost", arm=name).results}
        for name in (arm, "sparse_3d")
    }
    ratios = {}
    for draw in sorted(set(by_arm[arm]) & set(by_arm["sparse_3d"])):
        rival = by_arm["sparse_3d"][draw]
        level = share * max(point["dice"] for point in rival)
        ratios[draw] = seconds_to(by_arm[arm][draw], level) / seconds_to(rival, level)
    return ratios


def outcomes(
    sparsity: Series,
    em: Series,
    speed: Series,
    tier: str,
    *,
    continuity: Series | None = None,
    planning: Series | None = None,
    instances: Series | None = None,
    scaling: Series | None = None,
    synthesis: Series | None = None,
    people: Series | None = None,
    faults: Series | None = None,
    blocks: Series | None = None,
) -> list[Outcome]:
    """Measure every target from what is there.

    Parameters
    ----------
    sparsity, em, speed
        Results of the three benchmarks; `sparsity` of one tier.
    tier
        ``full`` or ``quick``, for the commands.
    continuity, planning, instances, scaling, synthesis, people, faults, blocks
        Results of those benchmarks, `planning` and `synthesis` of one tier; None for none.
    """
    quick = " --quick" if tier == "quick" else ""
    return [
        *_phantom(sparsity, f"python -m benchmarks.sparsity{quick} --only"),
        *_stack2(sparsity, f"python -m benchmarks.sparsity{quick} --only"),
        *_cost(sparsity, f"python -m benchmarks.sparsity{quick} --device cpu --only phantom_cost"),
        *_em(em),
        *_continuity(continuity or Series([])),
        *_planning(planning or Series([])),
        *_instances(instances or Series([])),
        *_scaling(scaling or Series([])),
        *_faults(faults or Series([])),
        *_blocks(blocks or Series([])),
        *_synthesis(synthesis or Series([])),
        *_people(people or Series([])),
        *_speed(speed),
    ]


def _above_zero(interval: Interval | None) -> bool | None:
    if interval is None or interval.count < _ENOUGH:
        return None
    return interval.above_zero


def _phantom(series: Series, command: str) -> list[Outcome]:
    lines = []
    for planes in (1, 2):
        only = f"{command} 'phantom planes={planes}'"
        for rival, metrics in (("cnn_2d", ("dice", "nsd", "assd_um")), ("sparse_3d", ("dice",))):
            for metric in metrics:
                ours = at(series, "phantom", "student_cnn_2d", planes)
                theirs = at(series, "phantom", rival, planes)
                # a smaller surface distance is better, so its difference is taken the other way round
                lower = metric == "assd_um"
                gain = difference(theirs, ours, metric) if lower else difference(ours, theirs, metric)
                name = {"dice": "Dice", "nsd": "NSD", "assd_um": "ASSD (µm), rival − student"}[metric]
                what = f"phantom, {_planes(planes)}: {ARMS['student_cnn_2d'].title} against {ARMS[rival].title}, {name}"
                measured = interval_text(gain, sign=True)
                lines.append(Outcome(what, "interval above 0, ≥ 5 draws", measured, _above_zero(gain), only))
        for rival in ("unet_2d", "sparse_3d"):
            gain = difference(
                at(series, "phantom", "student_unet_2d", planes),
                at(series, "phantom", rival, planes),
                "dice",
            )
            what = f"phantom, {_planes(planes)}: {ARMS['student_unet_2d'].title} against {ARMS[rival].title}, Dice"
            said = None if gain is None or gain.count < _ENOUGH else True
            lines.append(Outcome(what, "to be reported", interval_text(gain, sign=True), said, only))
    return lines


def _stack2(series: Series, command: str) -> list[Outcome]:
    lines = []
    for setting in ("stack2_field", "stack2_crops"):
        for planes in (1, 2, 4, 8):
            only = f"{command} '{setting} planes={planes}'"
            gain = difference(
                at(series, setting, "student_cnn_2d", planes),
                at(series, setting, "cnn_2d", planes),
                "dice",
            )
            enough = gain is not None and gain.count >= _ENOUGH
            what = f"{setting}, {_planes(planes)}: {ARMS['student_cnn_2d'].title} against its teacher, Dice"
            reached = gain.mean > 0 if gain is not None and enough else None
            lines.append(Outcome(what, "mean above 0, ≥ 5 draws", interval_text(gain, sign=True), reached, only))
            student_arm = best(series, setting, STUDENTS, planes)
            rival = best(series, setting, RIVALS, planes)
            if student_arm and rival:
                gain = difference(at(series, setting, student_arm, planes), at(series, setting, rival, planes), "dice")
            else:
                gain = None
            names = f" ({student_arm} − {rival})" if gain is not None else ""
            reached = gain.mean >= -0.01 if gain is not None and gain.count >= _ENOUGH else None
            what = f"{setting}, {_planes(planes)}: best student against best rival, Dice"
            lines.append(
                Outcome(what, "mean ≥ −0.01, ≥ 5 draws", interval_text(gain, sign=True) + names, reached, only)
            )
    arm = best(series, "stack2_field", STUDENTS, 4)
    dice = at(series, "stack2_field", arm, 4).interval("dice") if arm else None
    reached = dice.mean >= 0.85 if dice is not None and dice.count >= _ENOUGH else None
    text = interval_text(dice) + (f" ({arm})" if arm else "")
    lines.append(
        Outcome(
            "stack2_field, 4 planes: best student, Dice", "≥ 0.85", text, reached, f"{command} 'stack2_field planes=4'"
        )
    )
    return lines


def _cost(series: Series, command: str) -> list[Outcome]:
    lines = []
    for arm in STUDENTS:
        for share in (1.0, 0.95):
            ratios = list(cost_ratios(series, arm, share).values())
            finite = [ratio for ratio in ratios if math.isfinite(ratio)]
            text = interval_text(student(finite), 2) if finite else "–"
            if len(finite) < len(ratios):
                text += f"; never in {len(ratios) - len(finite)} of {len(ratios)} draws"
            reached = None
            if len(ratios) >= _ENOUGH:
                reached = len(finite) == len(ratios) and student(finite).mean <= 0.5
            level = "the sparse arm's best Dice" if share == 1 else f"{share:.0%} of the sparse arm's best Dice"
            what = f"phantom, 1 plane: processor seconds of the {ARMS[arm].title} over the sparse arm's, to {level}"
            lines.append(Outcome(what, "≤ 0.5", text, reached, command))
    return lines


def _em(series: Series) -> list[Outcome]:
    means = {
        arm: interval
        for arm in series.distinct("arm")
        if (interval := series.where(arm=arm).interval("dice")) is not None
    }
    command = "python -m benchmarks.em --device cpu --threads 2"
    top = max(means, key=lambda arm: means[arm].mean) if means else None
    sparse = means.get("sparse_3d")
    return [
        Outcome(
            "em_mitochondria, 32 planes, 30 minutes on two cores: best arm, Dice on the test stack",
            "≥ 0.93",
            f"{interval_text(means[top])} ({top})" if top else "–",
            means[top].mean >= 0.93 if top else None,
            command,
        ),
        Outcome(
            "em_mitochondria, 32 planes, 30 minutes on two cores: sparse_3d, Dice on the test stack",
            "≥ 0.88",
            interval_text(sparse),
            sparse.mean >= 0.88 if sparse else None,
            command,
        ),
    ]


def _continuity(series: Series) -> list[Outcome]:
    crop = series.where(setting="crop")
    command = "python -m benchmarks.continuity --quick --only"
    lines = []
    for before, after in pairwise(STEPS):
        steps = crop.where(part="ablation")
        gain = difference(steps.where(arm=after), steps.where(arm=before), "dice")
        reached = gain.mean > 0 if gain is not None and gain.count >= _ENOUGH_SEEDS else None
        what = f"em_mitochondria, crop, 32 planes: `{after}` against `{before}`, Dice"
        text = interval_text(gain, sign=True)
        lines.append(Outcome(what, "mean above 0, ≥ 3 draws", text, reached, f"{command} 'crop part=ablation'"))
    for fewer, more, least in ((8, 32, -0.02), (32, 165, -0.01)):
        ours = crop.where(part="strategies", arm="continuity")
        gain = difference(ours.where(planes=fewer), ours.where(planes=more), "dice")
        reached = gain.mean >= least if gain is not None and gain.count >= _ENOUGH_SEEDS else None
        what = f"em_mitochondria, crop, continuity: {fewer} planes against {more}, Dice"
        target = f"mean ≥ −{-least:g}, ≥ 3 draws"
        only = f"{command} 'crop part=strategies continuity'"
        lines.append(Outcome(what, target, interval_text(gain, sign=True), reached, only))
    command = "python -m benchmarks.continuity --device cpu --threads 2 --only"
    checks: list[tuple[str, str, str, str, str, Callable[[float], bool], int]] = [
        ("whole60", "best", "dice_chosen", "32 planes, best recipe, 60 minutes on two cores: Dice on the test stack",
         "≥ 0.945", lambda v: v >= 0.945, 3),
        ("whole60", "best", "iou_chosen", "32 planes, best recipe, 60 minutes on two cores: IoU on the test stack",
         "≥ 0.896", lambda v: v >= 0.896, 3),
        ("speed", "operator", "seconds", "morphology along z on 165 × 768 × 1024, seconds", "≤ 60",
         lambda v: v <= 60, 1),
        ("speed", "operator", "memory_over_mask", "morphology along z, its memory over that of the mask", "≤ 4",
         lambda v: v <= 4, 2),
        ("speed", "chain", "ratio", "prediction with both networks over their bare forward passes, seconds", "≤ 1.3",
         lambda v: v <= 1.3, 2),
    ]  # fmt: skip
    for setting, arm, metric, what, target, test, digits in checks:
        found = series.where(setting=setting, arm=arm, device_kind="cpu", threads=2).interval(metric)
        said = test(found.mean) if found is not None else None
        text = interval_text(found, digits)
        lines.append(Outcome(f"em_mitochondria, {what}", target, text, said, f"{command} '{setting} {arm}'"))
    return lines


def planes_needed(dice: Mapping[int, float], level: float) -> float:
    """Give the number of planes at which a curve first reaches a Dice, interpolated; infinite if it never does."""
    before: tuple[int, float] | None = None
    for planes, value in sorted(dice.items()):
        if value >= level:
            if before is None or value == before[1]:
                return float(planes)
            return before[0] + (planes - before[0]) * (level - before[1]) / (value - before[1])
        before = (planes, value)
    return math.inf


def plane_ratios(series: Series, setting: str, arm: str, levels: Sequence[int] = (4, 6, 8)) -> dict[int, float]:
    """Give the planes that an arm needs for the Dice of evenly spaced ones, over those that they are.

    Both are read off curves of the mean over draws of the best Dice up to a number of planes: trainings scatter, and a
    curve that falls would make a later number of planes look cheap.

    Parameters
    ----------
    series
        Results of planning.
    setting, arm
        Which of them.
    levels
        Numbers of evenly spaced planes whose Dice is to be reached.

    Returns
    -------
    dict
        The ratio by level; infinite where the arm never gets there.
    """
    own, even = (_curve(series.where(setting=setting, part="choice", arm=name)) for name in (arm, "even"))
    return {level: planes_needed(own, even[level]) / level for level in levels} if own and even else {}


def _curve(series: Series) -> dict[int, float]:
    """Give the best Dice up to each number of planes, the mean over draws."""
    sums: dict[int, float] = {}
    for result in series.results:
        best = 0.0
        for count in sorted(int(name.removeprefix("dice_")) for name in result["scores"]):
            best = max(best, float(result["scores"][f"dice_{count}"]))
            sums[count] = sums.get(count, 0.0) + best / len(series.results)
    return sums


def forecasts(series: Series, metric: str) -> list[float]:
    """Give a score of all forecasts of the budget curve, those at twice and four times the planes alike."""
    found = series.where(part="calibration").results
    return [
        float(value)
        for result in found
        for name, value in result["scores"].items()
        if name.rpartition("_")[0] == metric and value is not None
    ]


def _planning(series: Series) -> list[Outcome]:
    command = "python -m benchmarks.planning --quick --only"
    lines = []
    for setting in ("em", "stack2"):
        ratios = plane_ratios(series, setting, "recommended")
        finite = [ratio for ratio in ratios.values() if math.isfinite(ratio)]
        draws = len(series.where(setting=setting, part="choice", arm="recommended").results)
        text = ", ".join(f"{ratio:.2f} of {n}" if math.isfinite(ratio) else f"never {n}" for n, ratio in ratios.items())
        text = f"{text} ({draws})" if text else "–"
        reached = None
        if draws >= _ENOUGH_SEEDS:
            reached = len(finite) == len(ratios) and sum(finite) / len(finite) <= 0.75
        what = f"{setting}: recommended planes reach the Dice of evenly spaced ones with ≥ 25 % fewer planes"
        target = "mean share of planes ≤ 0.75, ≥ 3 draws"
        lines.append(Outcome(what, target, text, reached, f"{command} '{setting} part=choice'"))
    checks: list[tuple[str, str, str, Callable[[float], bool], bool]] = [
        ("covered", "intervals cover what 2n and 4n planes reach", "≥ 0.8 of the forecasts", lambda v: v >= 0.8, False),
        ("half_width", "mean half-width of the intervals", "≤ 0.03", lambda v: v <= 0.03, False),
        ("log_gain", "log score minus that of no change", "mean above 0", lambda v: v > 0, True),
    ]
    found = series.where(part="calibration").distinct("draw")
    for metric, what, target, test, sign in checks:
        values = forecasts(series, metric)
        mean = sum(values) / len(values) if values else None
        text = "–" if mean is None else f"{mean:{'+' if sign else ''}.3f} ({len(values)})"
        said = test(mean) if mean is not None and len(found) >= _ENOUGH_SEEDS else None
        lines.append(Outcome(f"budget curve: {what}", target, text, said, f"{command} part=calibration"))
    return lines


def _instances(series: Series) -> list[Outcome]:
    series = series.where(arm="boundary")
    command = "python -m benchmarks.instances --device cpu --threads 1 --only boundary"
    f1, errors = series.interval("f1"), [abs(error) for error in series.values("count_error").values()]
    enough = len(errors) >= _ENOUGH_SEEDS
    what = "nuclei_3d, five annotated planes in the other half:"
    worst = f"{max(errors):.0%} at most ({len(errors)})" if errors else "–"
    return [
        Outcome(
            f"{what} F1 of nuclei at IoU 0.5",
            "mean ≥ 0.75, ≥ 3 draws",
            interval_text(f1),
            f1.mean >= 0.75 if f1 is not None and enough else None,
            command,
        ),
        Outcome(
            f"{what} error of the count",
            "≤ 15 % in every draw, ≥ 3 draws",
            worst,
            max(errors) <= 0.15 if enough else None,
            command,
        ),
    ]


def _scaling(series: Series) -> list[Outcome]:
    command = "python -m benchmarks.scaling --device cpu --threads 1 --only"
    lines = []
    monai = series.where(arm="monai").results
    scores = monai[0]["scores"] if monai else {}
    for overlap in ("0.5", "0.25"):
        times = scores.get(f"monai_{overlap}_times_ours")
        promised = overlap == "0.5"
        lost = scores[f"monai_{overlap}_dice"] - scores["ours_dice"] if times is not None else 0.0
        reached = None if times is None else not promised or (times >= 4 and lost <= 0.002)
        what = f"voxels per processor second over those of MONAI's sliding window at overlap {overlap}, the same U-Net"
        target = "≥ 4, Dice at most 0.002 below" if promised else "to be reported"
        text = f"{times:.2f}, Dice {-lost:+.4f}" if times is not None else "–"
        lines.append(Outcome(what, target, text, reached, f"{command} monai"))
    peaks = {float(r["cell"]["config"]["gib"]): r["scores"] for r in series.where(arm="verbs").results}
    for verb in ("predict", "segment", "measure", "mesh"):
        found = {gib: scores[f"{verb}_peak_gib"] for gib, scores in sorted(peaks.items())}
        text = ", ".join(f"{gib:g} GiB: {peak:.2f}" for gib, peak in found.items()) or "–"
        said = None
        if {0.25, 2.0, 16.0} <= found.keys():
            said = max(found.values()) <= min(1.1 * min(found.values()), 3.0)
        target = "within 10 % for 0.25, 2 and 16 GiB, ≤ 3"
        lines.append(Outcome(f"peak memory of {verb}, GiB", target, text, said, f"{command} verbs"))
    return lines


def _faults(series: Series) -> list[Outcome]:
    series = series.where(tier="full")
    scores = [r["scores"] for r in series.results]
    kills, lost, unopened = (sum(int(s[name]) for s in scores) for name in ("kills", "lost", "unopened"))
    arms = {(r["cell"]["setting"], r["cell"]["arm"]) for r in series.results}
    enough = kills >= _KILLS and len(arms) == len(faults.VERBS) * len(faults.ARMS)
    reached = False if lost or unopened else True if enough else None
    text = f"{kills} kills in {len(arms)} arms; {lost} resumed otherwise, {unopened} left a store that does not open"
    what = (
        f"{_KILLS} kills of predict, segment, measure and mesh, alone and with workers: each resume equals the "
        "unbroken run; no kill leaves a store that cannot be opened"
    )
    command = "python -m benchmarks.faults --device cpu --threads 1"
    return [Outcome(what, "0 and 0, every verb and arm", text if scores else "–", reached, command)]


def _blocks(series: Series) -> list[Outcome]:
    series = series.where(tier="full")
    command = "python -m benchmarks.blocks --device cpu --threads 1 --only"

    def line(what: str, target: str, text: str, test: Callable[[Mapping[str, float]], bool],
             setting: str, arm: str) -> Outcome:  # fmt: skip
        """Judge the scores of one cell; `text` is filled in with them."""
        found = series.where(setting=setting, arm=arm).results
        scores = found[0]["scores"] if found else None
        said = None if scores is None else test(scores)
        return Outcome(
            what, target, "–" if scores is None else text.format(**scores), said, f"{command} '{setting} {arm}'"
        )

    lines = []
    for setting in ("nuclei_3d", "phantom"):
        lines += [
            line(f"{setting}: objects of one stored prediction by blocks of 32, 48, 64, 96 and by 0, 1, 2 workers",
                 "the same labels up to names; the same bytes for any workers",
                 "{partitions_that_differ} partitions, {workers_that_differ} outputs of workers differ",
                 lambda s: s["partitions_that_differ"] == s["workers_that_differ"] == 0 < s["objects"],
                 setting, "objects"),
            line(f"{setting}: predictions by blocks of 32, 48, 64, 96 and by 0, 1, 2 workers",
                 "≤ 0.1 % of labels and ≤ 2/255 of probability differ",
                 "{labels_share:.3%}, {largest_difference:.0f}/255 (99.9 % of voxels: {difference_999:.0f}/255)",
                 lambda s: s["labels_share"] <= 0.001 and s["largest_difference"] <= 2, setting, "predictions"),
            line(f"{setting}: steps of the probability across block faces over those between them", "≤ 1.05",
                 "{seam_ratio:.3f}", lambda s: s["seam_ratio"] <= 1.05, setting, "predictions"),
        ]  # fmt: skip
    lines += [
        line("naming the objects of 200,000 blocks, 5 million ids beyond 2^32, minutes", "≤ 3, the right number",
             "{minutes:.2f}; {objects_too_many:+.0f} objects",
             lambda s: s["minutes"] <= 3 and s["objects_too_many"] == 0 and s["bits_of_largest_id"] > 32,
             "many", "merge"),
        line("the table of 5 million objects in ≥ 2 gigavoxels of labels, minutes", "≤ 20, every row right",
             "{minutes:.1f}; {rows_wrong:.0f} rows wrong of {objects:,.0f}",
             lambda s: s["minutes"] <= 20 and s["rows_wrong"] == 0 and s["gigavoxels"] >= 2 and s["objects"] >= 5e6,
             "many", "table"),
    ]  # fmt: skip
    return lines


def _synthesis(series: Series) -> list[Outcome]:
    quick = " --quick" if any(r["cell"]["config"].get("tier") == "quick" for r in series.results) else ""
    command = f"python -m benchmarks.synthesis{quick} --only"
    both = ("nissl_123", "nissl_0")

    def of(sets: Sequence[str], arm: str, labels: int | None = None) -> list[Mapping[str, object]]:
        """Give an arm's results, if it has some of every set."""
        found = [r for name in sets for r in series.where(setting=name, arm=arm).results]
        found = [r for r in found if r["cell"]["config"].get("labels") == labels]
        return found if {r["cell"]["setting"] for r in found} == set(sets) else []

    def line(what: str, target: str, sets: Sequence[str], ours: tuple[str, int | None], least: float,
             theirs: tuple[str, int | None] | None = None, *, sure: bool = False) -> Outcome:  # fmt: skip
        """Compare F1 at IoU 0.5, or a difference of it, or the lower end of its interval, with a number."""
        mine, other = of(sets, *ours), of(sets, *theirs) if theirs else []
        found = objects.f1_interval(mine, other) if mine and (other or theirs is None) else None
        draws = objects.draws_of(mine) if found is not None else 0
        text = objects.f1_text(found, sign=theirs is not None) + (
            f"; {draws} draw{'s' * (draws != 1)}" if draws else ""
        )
        reached = None
        if found is not None and found.low is not None and draws >= _ENOUGH_SEEDS:
            reached = found.low > least if sure else found.mean >= least
        name = "nissl_*" if set(sets) == set(both) else sets[0]
        return Outcome(what, f"{target}, ≥ 3 draws", text, reached, f"{command} '{name} {ours[0]}'")

    nissl, nuclei = "Nissl cells, F1 at IoU 0.5:", "nuclei, F1 at IoU 0.5:"
    none, one = ("refined", None), ("refined_labelled", 1)
    lines = [
        line(f"{nissl} no label, both directions", "≥ 0.55", both, none, 0.55),
        line(f"{nissl} no label against threshold and watershed", "interval above 0", both, none, 0.0,
             ("threshold_watershed", None), sure=True),
        line(f"{nissl} no label, refined against simulated", "interval above 0", both, none, 0.0,
             ("simulated", None), sure=True),
        line(f"{nissl} pretrained, one labelled tile, both directions", "≥ 0.65", both, one, 0.65),
        line(f"{nissl} pretrained, three labelled tiles", "≥ 0.72", both[:1], ("refined_labelled", 3), 0.72),
        line(f"{nissl} one labelled tile, with against without pretraining", "interval above 0", both, one, 0.0,
             ("labelled", 1), sure=True),
        line(f"{nuclei} no label", "≥ 0.85", ("nuclei",), none, 0.85),
        line(f"{nuclei} pretrained, 4 labelled images, against all 80 without pretraining", "≥ −0.02", ("nuclei",),
             ("refined_labelled", 4), -0.02, ("all_labelled", None)),
    ]  # fmt: skip
    for setting in (*both, "nuclei"):
        scores = [r["scores"] for r in series.where(setting=setting, arm="refiner").results]
        falls = [float(s[f"{rate}_fall"]) for s in scores for rate in ("precision", "recall")]
        text = "precision {:+.3f}, recall {:+.3f}".format(*falls) if falls else "–"
        what = f"{setting}: fall of a detector's precision and recall from simulated to refined images"
        reached = max(falls) <= 0.03 if falls else None
        lines.append(Outcome(what, "≤ 0.03 each", text, reached, f"{command} '{setting} refiner'"))
    timed = series.where(setting="nissl_123", arm="refiner", device_kind="cpu")
    minutes = timed.interval("minutes")
    threads = max((int(r["threads"]) for r in timed.results), default=0)
    text = interval_text(minutes, 0) + (f"; {threads} thread{'s' * (threads != 1)}" if threads else "")
    reached = None if minutes is None or threads > 2 else minutes.mean <= 45
    what = "a refiner for a new stain, its simulations included, minutes on two cores"
    lines.append(Outcome(what, "≤ 45", text, reached, f"{command} 'nissl_123 refiner'"))
    speed: list[tuple[str, str, str, str, Callable[[float], bool], int]] = [
        ("stained_section", "mvoxel_per_s", "simulated section, megapixels per second", "≥ 5", lambda v: v >= 5, 1),
        ("fluorescence_nuclei", "mvoxel_per_s", "simulated volume of nuclei, megavoxels per second", "≥ 5",
         lambda v: v >= 5, 1),
        ("two_photon_neurons", "mvoxel_per_s", "simulated volume of neurons, megavoxels per second", "≥ 5",
         lambda v: v >= 5, 1),
        ("contours", "memory_gib", "contours on 4096 × 4096, memory beyond the image, GiB", "≤ 2", lambda v: v <= 2, 2),
        ("contours", "ratio", "contours on 4096 × 4096, over the bare forward passes", "≤ 1.5", lambda v: v <= 1.5, 2),
        ("contours", "different", "contours on a plane in blocks that are not those of the plane in one piece", "0",
         lambda v: v == 0, 0),
    ]  # fmt: skip
    for arm, metric, what, target, test, digits in speed:
        found = series.where(setting="speed", arm=arm).interval(metric)
        said = test(found.mean) if found is not None else None
        only = f"python -m benchmarks.synthesis --device cpu --threads 2 --only 'speed {arm}'"
        lines.append(Outcome(what, target, interval_text(found, digits), said, only))
    return lines


def _people(series: Series) -> list[Outcome]:
    killed = "napari killed 50 times while somebody paints"
    trains = "napari while a model trains, 99 % of the time: ms until the window answers"
    checks: list[tuple[str, str, str, str, float, int]] = [
        ("painting", "longest_lost_s", f"{killed}: longest stretch of painting that is lost, seconds", "≤ 2", 2, 2),
        ("painting", "earlier_lost", f"{killed}: kills after which something earlier is lost", "0", 0, 0),
        (
            "first_model",
            "actions",
            "napari: actions of mouse and keyboard from nothing to a first model",
            "≤ 12",
            12,
            0,
        ),
        ("first_model", "answers_99_ms", trains, "≤ 100", 100, 0),
        ("first_model", "busy_99_ms", f"{trains}, processor time of its own thread alone", "≤ 100", 100, 0),
    ]
    lines = []
    for arm, metric, what, target, most, digits in checks:
        found = series.where(arm=arm, tier="full").interval(metric)
        reached = found.mean <= most if found is not None else None
        command = f"python -m benchmarks.people --only {arm}"
        lines.append(Outcome(what, target, interval_text(found, digits), reached, command))
    return lines


def _speed(series: Series) -> list[Outcome]:
    checks: list[tuple[str, str, str, str, Callable[[float], bool], str]] = [
        ("training", "ratio", "fit over the bare step loop on preloaded tensors, steps per second", "≥ 0.85",
         lambda v: v >= 0.85, ""),
        ("prediction", "ratio", "block prediction over the same blocks, halo included, on preloaded tensors", "≥ 0.85",
         lambda v: v >= 0.85, ""),
        ("help", "seconds", "`fewslice --help`, seconds", "≤ 0.5", lambda v: v <= 0.5, ""),
        ("import", "loads_torch", "`import fewslice` loads torch (1) or not (0)", "0", lambda v: v == 0, ""),
        ("make_demo", "minutes", "`make demo` on two cores, minutes", "≤ 10", lambda v: v <= 10, " --make"),
        ("make_test", "minutes", "`make test` on two cores, minutes", "≤ 15", lambda v: v <= 15, " --make"),
    ]  # fmt: skip
    lines = []
    for arm, metric, what, target, test, flag in checks:
        for setting in series.where(arm=arm).distinct("setting") or [""]:
            found = series.where(arm=arm, setting=setting).interval(metric) if setting else None
            name = f"{what} ({setting})" if arm in ("training", "prediction") and setting else what
            reached = test(found.mean) if found is not None else None
            command = f"python -m benchmarks.speed{flag} --only {arm}"
            lines.append(Outcome(name, target, interval_text(found, 2), reached, command))
    return lines


def _planes(count: int) -> str:
    return "1 plane" if count == 1 else f"{count} planes"
