"""The verdict in words, and the meaning of each metric."""

from __future__ import annotations

from swin_deploy.parity import Hop, ParityReport, ParityResult, Tolerance
from swin_deploy.report.numbers import capital, cosine_text, error_text, one_line

PARITY_LEGEND = (
    (
        "Errors",
        "in units of the reference's RMS: both outputs are divided by the root mean square of the "
        "reference's, and compared in float64. Errors are rounded up, cosines down.",
    ),
    (
        "Rule",
        "the rule that is nearest to its limit, or furthest beyond it. Max error: every value must "
        "have |a - b| <= atol + rtol * |b|; the error is the smallest atol that would just pass, "
        "with rtol in the same proportion. Relative L2: ||a - b|| / ||b||.",
    ),
    (
        "Noise",
        "what PyTorch itself loses on the same images when the reference runs in the candidate's "
        "precision (for float32: its distance from float64). The limit is a multiple of it, and "
        "never more than a ceiling. An error above its limit is a failure.",
    ),
    (
        "Case",
        "one set of images at one batch size, or its tokens in the part of the model that is "
        "nearest to its limit; the worst case is the one nearest to its limit, or furthest beyond "
        "it.",
    ),
    ("Max, mean error", "largest and mean |a - b| over all values."),
    ("Relative L2", "||a - b|| / ||b||."),
    ("Cosine", "smallest cosine similarity of one image's output; 1 is the same direction."),
    ("SQNR", "signal to quantisation noise ratio, in dB; higher is better, inf is equal."),
    (
        "Top-1, top-5",
        "agreement: images with the reference's top class, or its five top classes in any order; "
        "accuracy: with the right one.",
    ),
    (
        "Flips, near ties",
        "images with another top class: a near tie where the reference's two top logits are "
        "within twice the noise of each other, else a flip.",
    ),
)
BENCH_LEGEND = (
    ("Latency", "of one call with a whole batch, in ms: median and 95th percentile."),
    ("Images/s", "batch divided by the median latency."),
    (
        "vs PyTorch",
        "images/s divided by that of the first row, in the same run; the interval holds the "
        "true ratio in 95 of 100 runs like this one. One that includes 1 is no difference.",
    ),
    ("Device ms", "median time between CUDA events around a call."),
    ("With copies", "images copied to the device and outputs back in each call."),
    (
        "Peak MB",
        "device memory of the weights and one call: PyTorch's tensors at their peak; for other "
        "libraries, what the device has less since they were opened.",
    ),
)
PLAN_LEGEND = (
    (
        "Bytes moved",
        "size of every kernel's inputs, constants and outputs, by shape and type, as the builder "
        "listed them: a property of the engine, not a measurement. 1 MB is a million bytes.",
    ),
    (
        "Minimum",
        "fewest bytes that matrix products with what follows them, whole attention and norms can "
        "move: 26 times the tokens times the channels for a block, and the weights once.",
    ),
    (
        "Kinds",
        "attention is fused; gemm has convolutions too; norm is LayerNorm, softmax and other "
        "reductions, charts add elementwise kernels to it; copy moves or casts values and computes "
        "none.",
    ),
    ("GFLOP", "operations of the matrix products, two a multiply-accumulate."),
    ("Fused attention", "attention blocks that one kernel computes whole."),
    ("Half", "float16 or bfloat16; a kernel counts as half when most of its bytes are."),
    (
        "GEMM, attention in float32",
        "such kernels that read a float32 tensor: none in a true FP16 engine.",
    ),
)


def count_noun(count: int, noun: str) -> str:
    """Return ``1 step`` or ``3 steps``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def verdict_word(passed: bool | None) -> str:
    """Return the word for one hop or case: ``pass``, ``FAIL``, or ``not run`` for None."""
    if passed is None:
        return "not run"
    return "pass" if passed else "FAIL"


def case_text(result: ParityResult) -> str:
    """Return the name of a case: ``seeded, batch 8``."""
    return f"{one_line(result.inputs)}, batch {result.batch}"


def case_title(hop: Hop) -> str:
    """Return the name of a hop, with the number of cases that passed."""
    passed = sum(result.passed for result in hop.results)
    return f"{hop.name}: {passed} of {count_noun(len(hop.results), 'case')} passed"


# Name of each stage in a headline, and the words for one that was not run.
STAGES = {
    "original": ("Original library", "not compared"),
    "deploy": ("Deploy model", "made, not yet run"),
    "onnx": ("ONNX", "written, not yet run"),
    "engine": ("TensorRT engine", "built, not yet run"),
}


def headline(parity: ParityReport | None) -> str:
    """Return the verdict in a few words: the stages that were verified, failed or not run."""
    if parity is None:
        return "Nothing was compared"
    failed = [one_line(hop.name) for hop in parity.hops if hop.passed is False]
    verified = _stages([hop for hop in parity.hops if hop.passed])
    unseen = [hop for hop in parity.hops if hop.passed is None]
    if failed:
        return f"Not equal: {', '.join(failed)}"
    if not verified:
        return "Nothing could be run here"
    # The deploy model is only an intermediate step to a file, so the file is named.
    shipped = [name for name in verified if name != "Deploy model"] or verified
    parts = [f"{' and '.join(shipped)} verified"]
    parts += [f"{name} {said}" for name, said in _unseen_stages(unseen, verified)]
    if parity.doubt:
        parts = [f"Inconclusive: {parts[0]}, but accuracy shows nothing", *parts[1:]]
    return ". ".join(parts)


def _stages(hops: list[Hop]) -> list[str]:
    return list(dict.fromkeys(STAGES[hop.stage][0] for hop in hops if hop.stage in STAGES))


def _unseen_stages(hops: list[Hop], verified: list[str]) -> list[tuple[str, str]]:
    """Return name and words of each stage that was not run.

    A hop has its own name if another hop of its stage was verified.
    """
    found = [(hop, STAGES[hop.stage]) for hop in hops if hop.stage in STAGES]
    return list(
        dict.fromkeys(
            (capital(one_line(hop.name)), "not run") if words[0] in verified else words
            for hop, words in found
        )
    )


def verdict_sentences(parity: ParityReport | None) -> tuple[str, ...]:
    """Return the verdict's meaning, then sentences for each hop that failed or did not run."""
    if parity is None:
        return ("No output was compared with the reference, so nothing is known about parity.",)
    ran = [hop for hop in parity.hops if hop.passed is not None]
    failed = [hop for hop in ran if not hop.passed]
    return (
        _meaning(parity, ran, failed),
        *(f"{capital(one_line(hop.name))} failed {failure_text(hop)}." for hop in failed),
        *(f"{one_line(hop.name)}: {one_line(hop.located)}." for hop in failed if hop.located),
        *((f"{capital(one_line(parity.doubt))}.",) if parity.doubt else ()),
        *not_run_sentences(parity),
    )


def not_run_sentences(parity: ParityReport) -> tuple[str, ...]:
    """Return one sentence for each hop that could not run here, with the reason."""
    return tuple(
        f"{capital(one_line(hop.name))} has not been tested: {one_line(hop.not_run).rstrip('.')}."
        for hop in parity.hops
        if hop.passed is None
    )


def _meaning(parity: ParityReport, ran: list[Hop], failed: list[Hop]) -> str:
    if not ran:
        return "Nothing could run here, so nothing is known about parity."
    cases = count_noun(sum(len(hop.results) for hop in ran), "case")
    if failed:
        total = count_noun(len(ran), "step")
        return f"Out of tolerance: {len(failed)} of {total} that ran, {cases} compared."
    names = capital(", ".join(one_line(hop.name) for hop in ran))
    return (
        f"{names}: same results as {one_line(parity.reference_backend)}, within tolerance, "
        f"in {'the' if cases == '1 case' else 'all'} {cases}."
    )


def failure_text(hop: Hop) -> str:
    """Return the worst case of a hop that failed, with its reason; to follow the word ``failed``.

    A hop without a result has a text of its own.
    """
    worst = hop.worst
    if worst is None:
        return "without a result" + ("" if hop.located else ": no comparison was recorded")
    check = worst.deciding
    reason = one_line(worst.reason).rstrip(".") or (
        f"error {error_text(check.needed)}, limit {error_text(check.allowed)}"
    )
    return f"on {case_text(worst)}: {reason}"


def count_flips(hop: Hop) -> tuple[int, int] | None:
    """Count the images with another top class.

    Returns:
        Number of flips and of near ties, each the most at any batch, summed over the image sets;
        None without classes.
    """
    flips: dict[str, int] = {}
    ties: dict[str, int] = {}
    for result in hop.results:
        if result.flips is not None and result.near_ties is not None:
            name = result.case.image_set  # its images go through several batches
            flips[name] = max(flips.get(name, 0), result.flips)
            ties[name] = max(ties.get(name, 0), result.near_ties)
    return (sum(flips.values()), sum(ties.values())) if flips else None


def flip_text(hop: Hop) -> str:
    """Return the counts of ``count_flips`` in words; empty if both are 0, or without classes."""
    counts = count_flips(hop)
    if counts is None or not any(counts):
        return ""
    return f"{count_noun(counts[0], 'flip')} and {count_noun(counts[1], 'near tie')}"


def tolerance_texts(hop: Hop) -> tuple[str, ...]:
    """Return each tolerance of a hop in words, with its origin."""
    return tuple(dict.fromkeys(_tolerance_text(result.tolerance) for result in hop.results))


def _tolerance_text(tolerance: Tolerance) -> str:
    floor, source = tolerance.floor, one_line(tolerance.source)
    cosine = ""
    if tolerance.min_cosine is not None:
        cosine = f", cosine at least {cosine_text(tolerance.min_cosine).rstrip('0')}"
    if floor is not None and floor.is_finite:
        return f"{source}{cosine}; noise: {one_line(floor.source)}"
    rule = f"atol {error_text(tolerance.atol)}, rtol {error_text(tolerance.rtol)}{cosine}"
    if floor is None:
        return f"{rule} ({source})"
    lost = f"PyTorch itself overflows ({one_line(floor.source)})"
    return f"{lost}, so a ceiling alone: {rule} ({source})"
