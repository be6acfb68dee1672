"""The first draft of a write-up: what a run's files say, and [[places]] for what only its authors know."""

import inspect
import re
import sys
from pathlib import Path

import custom_model
from src.common.arithmetic import arithmetic
from src.common.checkpoints import MODEL_CONFIG
from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.runs.folder import Run, trained_seconds
from src.writeup.run import Writeup, earlier_runs, find_method

PAPERS_PLACE, METHOD_PLACE = "[[the papers it follows]]", "[[what your method does, in a paragraph]]"
NO_METHODS = ("method", "challenge", "use_additional_condition", "num_train_timesteps")  # options that are no method's own
ALWAYS_CITED = ("1706.08500", "2104.11222")  # FID, and the tool that measures it
AVERAGES = "2312.02696"  # weight averages by half-life


def read_references(path: Path = PROJECT_ROOT / "CITATION.cff") -> list[tuple[str, str | None]]:
    """The entries under `references:` of our CITATION.cff, in its own layout: (one line, its arXiv number or None)."""
    if not path.is_file():
        raise UserError(f"no file {path}: the references of the write-up are taken from it")
    _, _, entries = path.read_text(encoding="utf-8").partition("\nreferences:\n")
    found = []
    for entry in re.split(r"^  - type: ", entries, flags=re.MULTILINE)[1:]:
        values = dict(re.findall(r"^    (title|year|notes|url): *(.*)$", entry, re.MULTILINE))
        person = r"\{?(?:name: ([^,}\n]+)|family-names: ([^,}\n]+)(?:, given-names: ([^}\n]+))?)"
        matches = re.findall(person, entry.split("title:", 1)[1])
        people = [f"{given[0]}. {family}" if given else name or family for name, family, given in matches]
        authors = ", ".join(people[:-1]) + (" et al." if people[-1] == "others" else f"{', ' * (len(people) > 1)}{people[-1]}.")
        arxiv = re.search(r"arXiv:(\d{4}\.\d{4,5})", values.get("notes", ""))
        title, where = values["title"].strip().strip('"'), arxiv[0] if arxiv else values.get("url", "")
        found.append((f"{authors} {title}. {values['year']}. {where}.", arxiv and arxiv[1]))
    return found


def one_paragraph(docstring: str) -> str:
    """A docstring up to its section of arguments, on one line."""
    return " ".join(re.split(r"\n\s*(?:Args|Returns|Raises)\b", inspect.cleandoc(docstring))[0].split())


def own_text(cls: type) -> tuple[str, str]:
    """The first line of the method's file, which names its paper, and its description.

    A method in custom_model.py is described by its author: there is a place for it, beside the text of what it extends. For a
    method whose file or class has no docstring there are such places, too.
    """
    if cls.__module__ != custom_model.__name__:
        parts = [part for part in (sys.modules[cls.__module__].__doc__ or "").strip().split("\n\n") if part]
        file_text = " ".join(f"{one_paragraph(part).rstrip('.')}." for part in parts) or PAPERS_PLACE
        loss = re.split(r": (?:(?:a pair's )?data|a scalar)|\.(?= [A-Z])|\.$", one_paragraph(cls.compute_loss.__doc__ or ""))[0]
        description = one_paragraph(cls.__doc__ or "") or METHOD_PLACE
        return file_text, f"{description} The loss: {loss[:1].lower()}{loss[1:]}." if loss else description
    parent = cls.__mro__[1]
    if parent.__module__.startswith("src.methods.shared."):  # no method of a paper
        return PAPERS_PLACE, METHOD_PLACE
    file_text, description = own_text(parent)
    return file_text, f"[[what your method does, in a paragraph; it extends {parent.__name__}:]] {description}"


def method_papers(cls: type) -> list[str]:
    """The arXiv numbers that the method's own file names, in order; for custom_model.py those of what it extends."""
    while cls.__module__ == custom_model.__name__:
        cls = cls.__mro__[1]
    return list(dict.fromkeys(re.findall(r"arXiv:(\d{4}\.\d{4,5})", inspect.getsource(sys.modules[cls.__module__]))))


def duration(seconds: float) -> str:
    """2 h 05 min; 12 min 30 s; 8 s."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {left:02d} s" if minutes else f"{left} s"


def training_text(run: Writeup) -> str:
    """The training details in sentences, the total training time among them."""
    config = run.training
    _, height, width = config.get("image_shape", run.challenge.shape)
    others = {*NO_METHODS, *(item.name for item in run.challenge.network_fields())}
    options = ", ".join(f"{name} {value}" for name, value in run.model.items() if name not in others)
    processes, device = config.get("processes", 1), config["device"].removesuffix(" ()")
    devices = device if processes == 1 else f"{processes} x {device}"
    half_lives = config["ema_half_lives"]
    sentences = [
        f"The U-Net has {config['num_parameters']:,} parameters. It learned from {config['num_training_images']:,} "
        f"{'pairs' if config.get('pairs') else 'images'} of {height}x{width} pixels ({config.get('challenge') or 'images'}) in "
        f"{run.steps:,} steps of batch size {config['batch_size']}, {run.steps * config['batch_size']:,} images seen in all.",
        f"Adam had a learning rate of {config['lr']:g} after a linear warm-up of {config['lr_warmup']} steps"
        + (f", falling linearly to 0 over the last {config['lr_decay']:.0%} of the steps" if config.get("lr_decay") else "")
        + (f"; gradients were clipped at norm {config['grad_clip']:g}." if config.get("grad_clip") else "."),
        ("Images were mirrored at random. " if config.get("flip") else "")
        + f"Weights were averaged with half-lives of {', '.join(f'{value:g}' for value in half_lives)} of the steps so far."
        * any(half_lives),
        *([f"Options of the method: {options}."] if options else []),
        f"It ran on {devices} in {config['precision']}, PyTorch {config['torch']}, seed {config['seed']}.",
    ]
    return " ".join([*sentences, time_text(run)])


def time_text(run: Writeup) -> str:
    """The total training time, that of the runs it was built on included; a place where one of them is not known."""
    own, earlier = trained_seconds(run.log), earlier_runs(Run(run.folder))
    unknown = [str(path) for _, path, seconds in earlier if seconds is None]
    if own is None or unknown:
        missing = "this run, whose log has no time" if own is None else f"{' and '.join(unknown)}, whose log was not found"
        return f"**Total training time:** [[hours, with those of {missing}]]."
    total = own + sum(seconds for _, _, seconds in earlier)
    parts = "".join(f", {role} {path.name} {duration(seconds)}" for role, path, seconds in earlier)
    return f"**Total training time: {duration(total)}**" + (f" (this run {duration(own)}{parts})." if earlier else ".")


def results_text(run: Writeup) -> str:
    sizes = sorted({(result.get("num_generated"), result.get("num_reference")) for result in run.fid.values()}, key=str)
    if not sizes:
        return "Table 1 gives the FID at each number of network calls (NFE)."
    counts = " and ".join(f"{generated} generated against {reference} reference images" for generated, reference in sizes)
    return f"Table 1 gives the FID at each number of network calls (NFE), of {counts}. Figure 3 shows samples."


def references_text(run: Writeup, cls: type) -> str:
    """A list: the papers that the files of the method and of its teacher's name, those of FID and weight averages, the code."""
    references = read_references()
    texts = {arxiv: text for text, arxiv in references}
    papers = method_papers(cls)
    for _, folder, _ in earlier_runs(Run(run.folder)):
        config = folder / MODEL_CONFIG
        papers += method_papers(find_method(config)) if config.is_file() else []
    papers += [AVERAGES] if any(run.training.get("ema_half_lives", [])) else []
    lines = [texts.get(number, f"arXiv:{number}.") for number in dict.fromkeys([*papers, *ALWAYS_CITED])]
    lines += [
        next(text for text, arxiv in references if arxiv is None),  # the challenge
        "Code: few-step-challenge, the kit this was trained, sampled and measured with; PyTorch.",
        "[[code and papers that you used beside these, or delete this line]]",
    ]
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))


def plan_text(run: Writeup) -> str:
    """The sampler as arithmetic, at the largest NFE of the challenge. Raises UserError where no plan can hold it."""
    first, *lines = arithmetic(run.folder, max(run.challenge.nfe))
    return "\n".join([f"\nThe sampler ({first}):\n", *(f"- `{line}`" for line in lines), ""])


def draft(run: Writeup, plan: bool = False) -> str:
    """writeup.md as it is first written; plan: whether it shows the sampler as arithmetic.

    Raises UserError where the run's method is not in this copy of the kit, or no plan can hold its sampler.
    """
    cls, name = find_method(run.folder / MODEL_CONFIG), run.model.get("method", "custom")
    paper, description = own_text(cls)
    return f"""# Few-step image generation: {name.replace("_", " ")}

Team: [[name of the team]]

Authors: [[names of the authors]]

## Method

{description}

It follows: {paper}
{plan_text(run) if plan else ""}
## Training

{training_text(run)}

The command was `{run.training.get("command", "train.py")}`.

![Training loss against the images seen](curves)

![Samples from early phases of training](early)

## Results

{results_text(run)}

![FID of the trained model, lower is better](results)

![Samples of the trained model](samples)

## References

{references_text(run, cls)}
"""
