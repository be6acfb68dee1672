"""The whole run as a script: its plan, its stages in order, what it skips and when it stops."""

from src.common.files import PROJECT_ROOT
from tests.helpers import parsed

RECIPE = PROJECT_ROOT / "recipes" / "simpsons_single_gpu.sh"


def stages(calls):
    return [words[words.index("--run_name") + 1] for words in calls if "--run_name" in words]


def test_plan_from_measured_throughput(recipe, tmp_path):
    code, output, calls = recipe("--budget", "30m", "--dry_run")
    assert code == 0 and stages(calls) == [] and "--challenge" in calls[0]
    plan = [line.split()[:2] for line in (tmp_path / "out" / "plan.txt").read_text().splitlines()][1:]
    # half an hour less a tenth, at half a second a step, shared out
    assert plan == [["edm", "1620"], ["cmt", "648"], ["consistency", "648"], ["gdd", "324"]]
    assert "13.5 minutes expected" in output


def test_every_stage_once_and_in_order(recipe, tmp_path):
    code, _, calls = recipe("--budget", "1h")
    assert code == 0 and stages(calls) == ["edm", "cmt", "consistency", "gdd"]
    edm, cmt, consistency, gdd = calls[1:]
    out = str(tmp_path / "out")
    assert cmt[cmt.index("--teacher") + 1] == gdd[gdd.index("--teacher") + 1] == f"{out}/edm"
    assert consistency[consistency.index("--init_from") + 1] == f"{out}/cmt"
    assert gdd[gdd.index("--init_from") + 1] == f"{out}/consistency"
    at = edm.index("--dev_images")
    assert edm[at + 1] == "500" and int(edm[at + 2]) > 0 and "--auto_resume" in edm

    code, output, calls = recipe("--budget", "1h")
    assert code == 0 and calls == [] and output.count("done already") == 4


def test_a_plan_is_of_the_budget_that_was_given_until_a_stage_has_begun(recipe, tmp_path):
    assert "13.5 minutes expected" in recipe("--budget", "30m", "--dry_run")[1]
    _, output, calls = recipe("--budget", "2h", "--dry_run")
    assert "plan for 120 minutes" in output and "54.0 minutes expected" in output and not calls  # measured before
    assert recipe("--budget", "2h", STOP_IN="cmt")[0] == 1
    code, output, calls = recipe("--budget", "3h")
    assert code == 2 and "begun with a budget of 120 minutes, not 180" in output and not calls
    (tmp_path / "out" / "plan.txt").unlink()  # without a plan it is made again
    code, _, calls = recipe("--budget", "2h")
    assert code == 0 and stages(calls) == ["cmt", "consistency", "gdd"]


def test_an_interrupted_stage_is_not_done(recipe):
    code, output, calls = recipe("--budget", "1h", STOP_IN="cmt")
    assert code == 1 and "cmt was interrupted" in output and stages(calls) == ["edm", "cmt"]
    code, _, calls = recipe("--budget", "1h")
    assert code == 0 and stages(calls) == ["cmt", "consistency", "gdd"]


def test_flags_of_the_stages_are_train_pys(recipe):
    """What the recipe gives to train.py is parsed by it."""
    calls = recipe("--smoke", "--no_fid")[2]
    for words in calls[1:]:
        args = parsed(words[1:])
        assert args.dev_images == 0 and args.challenge.name == "toon" and args.batch_size == 8
