"""A few images with what each model sees in them, as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterator
from itertools import zip_longest

from swin_deploy.parity import Answer, Guess, ParityReport, Sample
from swin_deploy.report.numbers import one_line, percent_text
from swin_deploy.report.words import count_noun

RANKS = 5


def render_samples(parity: ParityReport) -> str:
    """Return one card for each sample; empty when there are none."""
    cards = "".join(_card(parity, index, sample) for index, sample in enumerate(parity.samples))
    return f'<div class="samples">{cards}</div>' if cards else ""


def sample_sentence(parity: ParityReport) -> str:
    """Return how many of the shown answers have another top class."""
    changes = [answer.change for hop in parity.hops for answer in hop.answers]
    flips, ties = changes.count("flip"), changes.count("near tie")
    count = count_noun(len(parity.samples), "image")
    shown = f"{count}: those whose two likeliest classes are closest, and some"
    found = "every top class is the reference's" if not flips + ties else ""
    words = [count_noun(n, word) for n, word in ((flips, "flip"), (ties, "near tie")) if n]
    return f"{shown} spread over the set; {found or ', '.join(words)}."


def _card(parity: ParityReport, index: int, sample: Sample) -> str:
    hops = [hop for hop in parity.hops if len(hop.answers) > index]
    rows = [_row("reference", sample.reference, sample)]
    rows += [_row(hop.name, hop.answers[index], sample) for hop in hops]
    truth = "" if sample.label is None else f" is {_class(sample.label, sample.label_name)}"
    head = "".join(f'<th scope="col">{rank}</th>' for rank in range(1, RANKS + 1))
    picture = (
        f'<img src="data:image/jpeg;base64,{html.escape(sample.thumbnail)}" alt="" width="84">'
        if sample.thumbnail
        else ""
    )
    return (
        f'<figure class="sample"><figcaption>{picture}<span><code>{_text(sample.name)}</code>'
        f"{truth}</span></figcaption>"
        f'<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">Model</th>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div></figure>\n"
    )


def _row(name: str, answer: Answer, sample: Sample) -> str:
    change = "" if answer.change == "same" else f' <b class="fail">{answer.change}</b>'
    if not answer.guesses:
        cells = f'<td colspan="{RANKS}" class="fail">NaN or infinite</td>'
    else:
        cells = "".join(_cells(answer, sample.reference))
    return f"<tr><td>{_text(name)}{change}</td>{cells}</tr>"


def _cells(answer: Answer, reference: Answer) -> Iterator[str]:
    pairs = zip_longest(answer.guesses[:RANKS], reference.guesses[:RANKS])
    for guess, expected in pairs:
        if guess is None:
            yield "<td></td>"
            continue
        name = _class(guess.index, guess.name)
        differs = expected is None or expected.index != guess.index
        shown = f"<mark>{name}</mark>" if differs else name
        yield f'<td>{shown} <span class="quiet">{_percent(guess)}</span></td>'


def _percent(guess: Guess) -> str:
    return percent_text(guess.probability).removesuffix("%")


def _class(index: int, name: str) -> str:
    return _text(name) or str(index)


def _text(text: str) -> str:
    return html.escape(one_line(text))
