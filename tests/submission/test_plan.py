"""Plans: samplers are recorded and repeated to the last bit, cheats are refused by a rule, and a hostile plan by one line."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src.common.files import PROJECT_ROOT
from src.common.noise import image_seeds
from src.common.sampling import sample_batch
from src.methods import METHODS
from src.network import UNet
from src.submission import bounds
from src.submission.bounds import CONSTANT_VALUES, PLAN_BYTES, PLAN_NUMBERS, PLAN_OPERATIONS
from src.submission.handin.weights import Weights
from src.submission.plan.__main__ import plans_of
from src.submission.plan.operations import BadPlan
from src.submission.plan.read import read
from src.submission.plan.record import NotRecorded, locate
from src.submission.plan.replay import as_index
from src.submission.plan.rules import check
from src.submission.plan.text import lines
from src.submission.sandbox.sampler import COURSE_SEED, CourseDraws, Model, NoPlan, draws_of, run_plan
from tests.foreign import FOREIGN, imported, lay_out
from tests.helpers import SHAPE, TINY, fill_by_rule, slow_but, tiny_model
from tests.submission.samplers import HONEST, REFUSED

NETWORK = fill_by_rule(UNet(**TINY)).eval().requires_grad_(False)
CHALLENGE = SimpleNamespace(shape=SHAPE, network=UNet)
ROWS = 3


class Sampler(torch.nn.Module):
    """A model around one of the samplers."""

    def __init__(self, sampler):
        super().__init__()
        self.network, self.sampler = NETWORK, sampler

    def sample(self, shape, num_inference_timesteps, verbose):
        return self.sampler(self.network, shape, num_inference_timesteps)


def planned(model, nfe, sizes=(ROWS,)):
    return plans_of(model, nfe, CHALLENGE, sizes=sizes).shown


def states():
    """The random generators as they are now."""
    _, words, place, *_ = np.random.get_state()
    return {"torch": torch.get_rng_state(), "numpy": torch.tensor([*words.tolist(), place])}


def seed():
    torch.manual_seed(7)
    np.random.seed(7)


def by_plan(plan, networks, rows=ROWS, labels=None):
    """The images of a plan with these networks, of draws as the sampler itself would make them after seed()."""
    seed()
    draws, model = CourseDraws(states(), COURSE_SEED, torch.device("cpu")), Model(None, {}, Weights(networks, {}))
    size = plan.batch or rows
    return torch.cat([run_plan(plan, model, size, draws.draw, labels) for _ in range(rows // size)])


def by_seeds(plan, model, seeds, labels=None):
    """The images of a plan with this model's network, one for each seed."""
    grader = Model(None, {}, Weights({"network.": model.network}, {}))
    return run_plan(plan, grader, len(seeds), draws_of(seeds, torch.device("cpu")), labels)


CALLS = {
    "guidance by cat and chunk": 4,
    "a call on the mirrored batch too": 4,
    "Heun": 3,
    "noise of a generator": 1,
    "the mean of all states": 4,
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_samplers_are_repeated_to_the_last_bit(name):
    model = Sampler(HONEST[name])
    plan = planned(model, 2)
    assert plan.calls == CALLS.get(name, 2)
    seed()
    with torch.no_grad():
        images = model.sample((ROWS, *SHAPE), 2, False)
    if name == "noise of a generator":  # the grader draws, whatever generator was wished for
        return
    assert torch.equal(by_plan(plan, {"network.": NETWORK}), images)
    assert check(plan, plan.batch or 8) == plan.calls and len(lines(plan)) >= 3


@pytest.mark.parametrize("name", REFUSED)
def test_refused_samplers_are_refused_by_a_rule(name):
    sampler, rule = REFUSED[name]
    with pytest.raises((NotRecorded, BadPlan), match=rule):
        planned(Sampler(sampler), 1)


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_of_the_kit(method):
    """Its plan gives the images that sampling.py makes of the same seeds, whatever the batch."""
    model, seeds = tiny_model(method), image_seeds(42, 0, 4)
    for nfe in (1, 2, 4):
        plan = planned(model, nfe)
        assert plan.calls == nfe and plan.operations <= 40 and plan.numbers <= 40
        assert torch.equal(by_seeds(plan, model, seeds), sample_batch(model, (4, *SHAPE), nfe, seeds))


@pytest.mark.parametrize("options", [{"eta": 1.0}, {"S_churn": 1.0}], ids=str)
def test_noise_inside_of_the_steps_follows_from_the_seeds(options):
    method = "ddpm" if "eta" in options else "edm"
    model, seeds = tiny_model(method, **options), image_seeds(1, 0, 3)
    plan = planned(model, 4)
    assert sum(step.op == "draw" for step in plan.steps) > 1
    images = sample_batch(model, (3, *SHAPE), 4, seeds)
    assert torch.equal(by_seeds(plan, model, seeds), images)
    alone = by_seeds(plan, model, seeds[1:2])
    assert torch.allclose(alone, images[1:2], atol=1e-4), "an image does not depend on its company"


def test_classes_are_asked_for():
    model = tiny_model("rectified_flow", challenge="simpsons32", classes=["a", "b", "c"])
    plan = plans_of(model, 2, SimpleNamespace(shape=SHAPE, network=type(model.network))).shown
    assert plan.asks_for_labels and "the classes asked for" in "".join(lines(plan))
    seeds, labels = image_seeds(1, 0, 3), torch.tensor([1, 2, 3])
    assert torch.equal(by_seeds(plan, model, seeds, labels), sample_batch(model, (3, *SHAPE), 2, seeds, labels=labels))


WORKING = [name for name in FOREIGN if name != "nan_at_four"]


@pytest.mark.parametrize("name", slow_but(["package", "three_copies", "precond"], WORKING))
def test_every_foreign_hand_in(name, tmp_path):
    """The course's own call gives the images of the plan; its networks may be several."""
    folder = lay_out(tmp_path / "team", name)
    with imported(folder) as custom_model:
        model = custom_model.create_custom_model(**json.loads((folder / "checkpoints/model_config.json").read_text())).eval()
        for part in model.modules():
            if isinstance(part, UNet):
                fill_by_rule(part)
        networks = {f"{place}.": part for place, part in model.named_modules() if isinstance(part, UNet)}
        for nfe in (1, 2, 4):
            plan = plans_of(model, nfe, CHALLENGE, folder).shown
            assert plan.calls == nfe and plan.operations <= 78
            assert all(step.at.partition(",")[0].endswith(".py") for step in plan.steps)
            seed()
            with torch.no_grad():
                images = model.sample((ROWS, *SHAPE), num_inference_timesteps=nfe, verbose=False)
            assert torch.equal(by_plan(plan, networks), images)


def test_a_sampler_as_arithmetic():
    """Rectified flow in two steps is five lines."""
    assert lines(planned(tiny_model("rectified_flow"), 2)) == [
        "noise0 = normal(B, 3, 16, 16)",
        "y1 = network(noise0, timestep=0)",
        "x2 = noise0 + 0.5 * y1",
        "y3 = network(x2, timestep=500)",
        "images = x2 + 0.5 * y3",
    ]


def test_a_question_is_answered_alike_in_every_replay():
    def asks(net, shape, steps):
        answer = net(torch.randn(shape), torch.zeros(shape[0]))
        return answer * 2 if answer.mean() > 1e3 else answer

    plan = planned(Sampler(asks), 1)
    large = fill_by_rule(UNet(**TINY)).eval()
    torch.nn.init.constant_(large.tail[2].bias, 1e4)
    with pytest.raises(NoPlan, match=r"a question of yes or no has another answer for other images: step \d+ \(.*test_plan.py"):
        by_plan(plan, {"network.": large})


def test_a_step_that_cannot_be_done_is_no_crash():
    divided = plan(
        step("_to_copy.default", ANSWER, dtype={"dtype": "int64"}),
        step("remainder.Tensor", {"step": 3}, {"step": 3}),
        step("add.Tensor", ANSWER, {"step": 4}),
    )
    with pytest.raises(NoPlan, match=r"step 4 \(\) cannot be done"):
        by_plan(read(json.dumps(divided).encode(), SHAPE), {"network.": NETWORK})


def test_a_caught_refusal_is_one():
    def hides(net, shape, steps):
        x = net(torch.randn(shape), torch.zeros(shape[0]))
        try:
            scale = float(x.std())
        except Exception:
            scale = 2.0
        return x * scale

    with pytest.raises(NotRecorded, match="is asked for"):
        planned(Sampler(hides), 1)


def test_weights_that_are_replaced_do_not_matter_here_but_errors_do():
    with pytest.raises(ZeroDivisionError):
        planned(Sampler(lambda net, shape, steps: net(torch.randn(shape), torch.zeros(shape[0])) / (1 // 0)), 1)


# --------------------------------------------------------------------------------------------------------- hostile plans


NOISE, ANSWER, BATCH = {"step": 0}, {"step": 1}, {"batch": 1}


def step(op, *args, at="", **kwargs):
    return {"op": op, "args": list(args), "kwargs": kwargs, "at": at}


def draw(law, *shape):
    return step("draw", law, list(shape), {"dtype": "float32"}, 0.0, 1.0, False, False)


def call(name="network.", x=NOISE, **options):
    time = {"tensor": "float32", "values": [0.0], "shape": [BATCH], "sizes": [1, 1], "copies": True}
    return step("network", name, x, **{"timestep": time, "precision": {"dtype": "float32"}, **options}, at="a.py, line 2")


def plan(*more, noise=None, answer=None, last=None, **keys):
    """A plan of one call as JSON has it, with other steps, more of them, the last of which gives the images, or other keys."""
    noise, answer = noise or draw("normal", BATCH, *SHAPE), answer or call()
    steps = [noise, answer, {**(last or step("add.Tensor", NOISE, ANSWER)), "at": "a.py, line 3"}, *more]
    return {"plan": 1, "shape": list(SHAPE), "batch": None, "steps": steps, "result": {"step": len(steps) - 1}, **keys}


def constant(values, sizes=None, shape=None):
    sizes = sizes or [len(values)]
    return {"tensor": "float32", "values": values, "shape": shape or sizes, "sizes": sizes, "copies": False}


def of(op, *args, **kwargs):
    """A plan whose images are an operation on the answer."""
    return plan(last=step(op, ANSWER, *args, **kwargs))


def add(value):
    return of("add.Tensor", value)


def many(count, each):
    return plan(*[each] * count)


ALLOWED = "is not an operation of plans"
FIXED = plan(noise=draw("normal", 3, *SHAPE))
TIMES = constant([0.0, 1.0, 2.0])
HOSTILE = {
    "no JSON": (b"{", "a plan that is no JSON"),
    "no UTF-8": (b"\xff\xfe", "a plan that is no JSON"),
    "deep": (b"[" * 100_000, "a plan that is no JSON"),
    "long": (b" " * (PLAN_BYTES + 1), "a plan of 262,145 bytes"),
    "10 MB of constants": (json.dumps([0.1] * 2_000_000).encode(), "a plan of 10,000,000 bytes"),
    "a list": (b"[]", "a plan of another form or shape"),
    "NaN": (add(float("nan")), "the number NaN"),
    "another shape": (plan(shape=[3, 64, 64]), "a plan of another form or shape"),
    "more keys": (plan(more=1), "a plan of another form or shape"),
    "an unknown operation": (of("fft_fft.default"), rf"step 2 \(a.py, line 3\): fft_fft.default {ALLOWED}"),
    "no operation": (of("__class__.default"), ALLOWED),
    "another namespace": (of("add.__init__"), ALLOWED),
    "writes": (of("add_.Tensor", NOISE), ALLOWED),
    "files": (plan(last=step("from_file.default", "/etc/passwd")), ALLOWED),
    "a wrong shape": (add(constant([1.0] * 7)), "the operation does not fit"),
    "images of another shape": (of("flatten.using_ints"), ALLOWED),
    "half of the images": (of("slice.Tensor", 0, 0, 1), r"the result: no images \(3, 3, 16, 16\)"),
    "the future": (plan(last=step("add.Tensor", {"step": 2}, ANSWER)), "refers to what is no earlier step"),
    "no arguments": (plan(last=step("add.Tensor")), "computes with constants alone"),
    "too many values": (add(constant([0.5] * (CONSTANT_VALUES + 1))), "a constant of 257 values"),
    "a 16x16 picture": (add(constant([i / 256 for i in range(256)], [16, 16])), "differs from place to place"),
    "rows told apart": (add(constant([0.0, 1.0, 2.0], [3, 1, 1, 1])), "a constant that differs from image to image"),
    "sizes that are none": (add(constant([0.5], [2])), "a constant of other sizes than values"),
    "copies of nothing": (add({**constant([0.5], [1], [1]), "shape": [], "copies": True}), "not the same for every image"),
    "a huge tensor": (of("repeat.default", [1, 1, 4096, 4096]), "too large"),
    "a huge view": (of("expand.default", [1 << 20, 1 << 20, 3, 3, 16, 16]), "too large"),
    "a large constant": (add(constant([0.5], [1], [1 << 23])), "a constant that is too large"),
    "a constant without end": (add(constant([0.5], [1, 1], [1 << 20, 1 << 20])), "a constant that is too large"),
    "another network": (plan(answer=call("teacher.")), "a call of what is no network of the submission"),
    "a call without a time": (plan(answer=call(timestep=1.0)), "a call whose time is no tensor"),
    "an unknown law": (plan(noise=draw("picture", BATCH, *SHAPE)), "a draw of another form"),
    "noise of no shape": (plan(noise=draw("normal", None)), "a draw of another form"),
    "endless noise": (plan(noise=draw("normal", BATCH, 1 << 20, 1 << 20)), "draws"),
    "constants alone": (plan(last=step("add.Tensor", constant([1.0]), constant([2.0]))), "computes with constants alone"),
    "too many operations": (many(2 * PLAN_OPERATIONS, step("neg.default", ANSWER)), "301 operations for 1 network calls"),
    "many draws": (many(2 * PLAN_OPERATIONS, draw("normal", BATCH, 1)), "301 draws for 1 network calls"),
    "many filters": (many(9, step("avg_pool2d.default", ANSWER, [1, 1])), "9 filters, borders and changes"),
    "many calls": (many(64, call()), "65 network calls, at most 64 are allowed"),
    "large results": (many(40, step("repeat.default", ANSWER, [8, 16, 1, 1])), "a result that is too large"),
    "a result of no step": (
        plan(last=step("split.Tensor", ANSWER, 1), result={"step": 2, "out": 9}),
        "the result: refers to what no step gives",
    ),
    "a question of a number": (plan(last=step("ask", "_local_scalar_dense", [1.0], True)), "does not fit"),
    "a question of all": (plan(last=step("ask", "equal", [ANSWER], True)), "a question of another form"),
    "another device": (of("_to_copy.default", device="meta"), "an option"),
    "another reading": (of("view.dtype", {"dtype": "int32"}), ALLOWED),
    "a border by name": (of("avg_pool2d.default", [3, 3], [1, 1], padding=[1, 1]), "a border of zeros tells places apart"),
    "times of rows": (
        plan(batch=3, noise=FIXED["steps"][0], answer=call(timestep=TIMES)),
        "a timestep that differs from image to image",
    ),
    "quantiles as rows": (
        plan(
            step("view.default", ANSWER, [3, -1]),
            step("quantile", {"step": 3}, constant([0.1, 0.2, 0.3]), 1, False, "linear"),
            step("view.default", {"step": 4}, [3, 3, 1, 1]),
            step("add.Tensor", ANSWER, {"step": 5}),
        ),
        "mixes images of the batch",
    ),
    "a constant of rows": (
        plan(
            step("constant", constant([i / 8 for i in range(16)], [16, 1])),
            step("view.default", {"step": 3}, [1, 1, 1, 16]),
            step("add.Tensor", ANSWER, {"step": 4}),
        ),
        "lays channels over the places of an image",
    ),
    "whole numbers without end": (add(10**400), "a number of more than 64 bits"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_plans_are_refused_in_one_line(name):
    data, rule = HOSTILE[name]
    with pytest.raises(BadPlan, match=rule) as caught:
        read(data if isinstance(data, bytes) else json.dumps(data).encode(), SHAPE)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_the_plan_of_these_tests_is_sound():
    sound = read(json.dumps(plan()).encode(), SHAPE)
    assert (sound.calls, sound.operations, sound.numbers) == (1, 1, 2)


def test_a_fixed_batch_is_refused_at_another():
    """Three images are what the proof of reading is of; the grader asks again for the batches that it runs."""
    fixed = read(json.dumps(FIXED).encode(), SHAPE)
    with pytest.raises(BadPlan):
        check(fixed, 8)


def test_the_budget_of_numbers():
    steps = []
    for number in range(PLAN_NUMBERS + 1):
        last = {"step": len(steps) + 2}
        steps += [call(x=last)] if number % 200 == 0 else []
        steps.append(step("add.Tensor", last, 0.001 * number))
    with pytest.raises(BadPlan, match="different constants, at most 400 are allowed"):
        read(json.dumps(plan(*steps)).encode(), SHAPE)


def test_the_guide_names_the_bounds():
    """The table of docs/grading.md has the figures of bounds.py."""
    table = (PROJECT_ROOT / "docs/grading.md").read_text().partition("### What a plan may hold")[2].partition("\n### ")[0]
    for text in (
        f"| {bounds.PLAN_OPERATIONS} for each call, and as many beside them |",
        f"| {bounds.PLAN_NUMBERS} different numbers, {bounds.CONSTANT_VALUES} in one tensor;",
        f"{bounds.PLAN_FILTERS} filters for each call, and {bounds.PLAN_FILTERS} beside them, of at most",
        f"at most {bounds.FILTER_PIXELS}x{bounds.FILTER_PIXELS} pixels",
        f"{bounds.MATRIX_CHANNELS} channels |",
        f"| {bounds.PLAN_CALLS}, and {bounds.BATCH_COPIES} copies of the batch in one |",
        f"| {bounds.PLAN_BYTES >> 10} KiB |",
    ):
        assert text in table


def test_where_a_view_lies():
    base = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    last = base.contiguous(memory_format=torch.channels_last)

    def where(view, whole):
        return locate(*((tuple(each.shape), each.stride(), each.storage_offset()) for each in (view, whole)))

    views = [base, base[1], base[:, 1], base[:, 1:], base[:, :, ::2, 1::3], base[0, 2], base[:, :, 3], base.view(2, 3, 64)]
    for view, whole in [*((view, base) for view in views), (last[:, 1], last)]:
        assert torch.equal(whole[as_index(where(view, whole))].reshape(view.shape), view)
    assert where(base.permute(0, 2, 3, 1), base) is None and where(base.view(-1)[5:100], base) is None
