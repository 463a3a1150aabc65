"""Limits and provenance: what the report cannot say, and what made it."""

from __future__ import annotations

from typing import Any

from eval.report.model import RunReport
from eval.report.words import ABSENT
from steering.page.document import Block, Bullets, Code, Paragraph, Section, Table, Words

LIMITS = (
    "The algebra guarantees the probe's read-out at the steered layers and tokens, not what the text says.",
    "Scores are those of classifiers and word lists, each with its own blind spots; nobody has read all of this.",
    "It holds for this model, these prompts and this decoding. Other prompts are other prompts.",
    "An interval that holds zero is no proof of no effect, and a table of many arms finds some by chance: hence Holm.",
    "Perplexity is the unsteered model's own opinion, which steering is meant to differ from; read it two-sided.",
    "Arms with a setting chosen after looking at these prompts would look better than they are; choose on others.",
)


def limits_section(run: RunReport) -> Section:
    """The standing ones, then those of this run."""
    own = [note[:1].upper() + note[1:].rstrip(".") + "." for note in run.left_out]
    if not run.layers:
        own.append("What the probes read at each layer was not recorded: that needs model and probes here.")
    if run.unknown_probes:
        own.append(
            f"The manifests of {', '.join(run.unknown_probes)} are not with the run, so nothing is claimed of them."
        )
    compared = run.provenance.get("prompts_compared_with_training_data")
    if isinstance(compared, str):
        own.append(f"Prompts against training data: {compared}.")
    return Section("limits", "Limits", (Bullets(tuple((line,) for line in (*LIMITS, *own))),))


def provenance_section(run: RunReport) -> Section:
    """Command, seeds, versions, hashes and the class of the hardware."""
    sessions: list[dict[str, Any]] = list(run.provenance.get("sessions", []))
    identity = run.identity
    blocks: list[Block] = [
        Paragraph(("Made by ", *_commands(sessions, run), " The samples follow from what stands here.")),
        Table(("what", "value"), tuple(_facts(run)), align="left"),
    ]
    if sessions:
        versions = sessions[-1]["versions"]
        rows = tuple(((name,), (Code(str(version)),)) for name, version in versions.items())
        blocks.append(Table(("package", "version"), rows, align="left"))
    hashes = {**identity["probes"], **run.provenance.get("files", {}), "prompts": identity["prompts_sha256"]}
    rows = tuple(((name,), (Code(str(digest)),)) for name, digest in hashes.items())
    blocks.append(Table(("SHA-256 of", "is"), rows, align="left"))
    return Section("provenance", "Provenance", tuple(blocks))


def _commands(sessions: list[dict[str, Any]], run: RunReport) -> Words:
    typed = [session["command"] for session in sessions] + [
        one["command"] for one in run.provenance.get("rescored", [])
    ]
    words: list[str | Code] = []
    for command in dict.fromkeys(typed):
        words += [Code(command), ", "]
    words[-1:] = ["."]
    return tuple(words) if typed else ("an unknown command.",)


def _facts(run: RunReport) -> list[tuple[Words, Words]]:
    identity = run.identity
    model, decoding = identity["model"], identity["decoding"]
    hardware = run.provenance["sessions"][-1]["hardware"] if run.provenance.get("sessions") else {}
    prompts = ", ".join(f"{n} of {name}" for name, n in identity["prompts"].items())
    return [
        (("spec",), (Code(str(identity["spec"])),)),
        (("model",), (Code(f"{model.get('id')}"), f" at {model.get('revision')}, {model.get('dtype')}")),
        (("written",), (str(identity["writer"]), f", Tiller {identity['version']}")),
        (("prompts",), (f"{prompts}; {identity['samples']} of each arm and prompt",)),
        (("decoding",), (", ".join(f"{name} {value:g}" for name, value in decoding.items() if name != "seed"),)),
        (("seed",), (f"{decoding['seed']}; a sample's own follows from it, its prompt's text and its number",)),
        (("hardware",), (", ".join(f"{name} {value}" for name, value in hardware.items()) or ABSENT,)),
    ]
