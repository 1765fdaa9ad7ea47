"""The toy package's command line, run as a user runs it; what needs no fresh process runs in this one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from tenfold._errors import MissingExtraError, UserInputError
from tenfold.testing import call_apart, child_environment, full_disk, threads, two_gloo_ranks
from tenfold.train._parsers import normalise_arguments
from tenfold.train.cli import App, Verb, classify

pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def cli(tmp_path, monkeypatch, capfd):
    """Runs the command line in an empty folder and returns (exit code, output, error lines of ours)."""
    from toypkg.cli import app

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capfd.readouterr()
        code = app([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        own = [line for line in err.splitlines() if line.startswith("toypkg: ")]
        return code, out, "\n".join(own) + ("\nTraceback" if "Traceback" in err else "")

    return run


@pytest.fixture
def one_thread():
    """The number of threads of the subprocesses, so that sums are taken in the same order."""
    with threads(1):
        yield


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


# ---- help and version -----------------------------------------------------------------------------


def test_help_and_version_are_fast_and_load_nothing_heavy(user):
    watch = (
        "import atexit, sys\n"
        "names = ('torch', 'lightning', 'numpy', 'jsonargparse')\n"
        "atexit.register(lambda: print('loaded', [n for n in names if n in sys.modules]))"
    )
    start = time.perf_counter()
    version = user("--version", prelude=watch)
    top = user("--help", prelude=watch)
    assert time.perf_counter() - start < 5
    assert version.stdout.splitlines() == ["toypkg 0.3.0", "loaded []"]
    assert "loaded []" in top.stdout
    assert top.returncode == version.returncode == 0
    for words in ("fit (distill)", "predict (verify)", "$ toypkg demo", "$ toypkg fit --config line"):
        assert words in top.stdout
    verb = user("predict", "--help", prelude=watch)
    assert "loaded ['jsonargparse']" in verb.stdout


def test_importing_the_room_loads_neither_lightning_nor_torch(environment):
    code = (
        "import sys, tenfold.train, tenfold.train.cli, tenfold.cli\n"
        "assert not {'torch', 'lightning', 'jsonargparse'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert call_apart(parts_without_lightning).value == []


def parts_without_lightning():
    """What of lightning is loaded with the parts that do without; in a child, which has torch at no cost."""
    for name in [n for n in sys.modules if n.split(".")[0] == "lightning"]:
        del sys.modules[name]
    assert not {f"tenfold.train.{part}" for part in ("claims", "resume", "schedules")} & set(sys.modules)
    import tenfold.train.claims
    import tenfold.train.resume
    import tenfold.train.schedules  # noqa: F401

    return [name for name in sys.modules if name.split(".")[0] == "lightning"]


def test_every_verb_s_help_shows_its_examples(cli):
    from toypkg.cli import app

    for verb, examples in app.examples().items():
        code, out, _ = cli(verb, "--help")
        assert code == 0
        for example in examples:
            assert f"\n$ {example}\n" in out
    code, out, _ = cli("fit", "--help")
    assert "recipes (--config): line" in out
    assert "--model.width" in out
    assert "Hidden width" in out
    code, out, _ = cli("predict", "-h")
    assert "JSON file with slope and offset." in out


def test_every_example_runs(cli, tmp_path):
    from toypkg.cli import app

    (tmp_path / "line.json").write_text('{"slope": 2, "offset": 1}')
    for verb, examples in app.examples().items():
        for example in examples:
            words = example.split()
            assert words[0] == "toypkg"
            assert cli(*words[1:])[0] == (130 if verb == "crash" else 0), example


# ---- verbs that are functions ---------------------------------------------------------------------


def test_predict_its_alias_and_both_ways_to_give_an_option(cli, tmp_path):
    (tmp_path / "a=b.json").write_text('{"slope": 2, "offset": 1}')
    for words in (
        ["predict", "a=b.json", "--x", "3"],
        ["verify", "a=b.json", "x=3"],
        ["predict", "a=b.json", "--x=3"],
    ):
        code, out, _ = cli(*words)
        assert (code, json.loads(out)) == (0, {"y": 7.0})
    assert cli("export", "a=b.json", "o.txt")[0] == 0
    assert (tmp_path / "o.txt").read_text() == "y = 2 x + 1\n"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["ft"], 2, r"verb: got 'ft' \(did you mean 'fit'\?\)"),
        (["--bogus"], 2, r"<verb>.*toypkg --help"),
        (["predict"], 2, r"required: weights"),
        (["predict", "none.json"], 2, r"none\.json: No such file"),
        (["predict", "partial.json"], 2, r"partial\.json: offset: missing"),
        (["predict", "broken.json"], 2, r"broken\.json: not JSON"),
        (
            ["predict", "partial.json", "--digts", "2"],
            2,
            r"digts: no such option \(did you mean 'digits'\?\)",
        ),
        (["predict", "partial.json", "--x", "q"], 2, r"x: got q; expected float"),
        (["export", "line.json", "partial.json/x.txt"], 2, r"partial\.json/x\.txt: Not a directory"),
        (["crash", "what"], 2, r"kind: got what; expected .*'bug', 'input'"),
        (["crash", "input"], 2, r"a\.png: width: got 0; expected more"),
        (["crash", "interrupt"], 130, r"interrupted"),
        (["crash", "extra"], 4, r'pip install "toypkg\[viz\]"'),
        (["crash", "bug"], 1, r"a bug in our code.*\nTraceback"),
    ],
)
def test_exit_codes_of_functions(cli, tmp_path, words, code, sentence):
    (tmp_path / "line.json").write_text('{"slope": 2, "offset": 1}')
    (tmp_path / "partial.json").write_text('{"slope": 2}')
    (tmp_path / "broken.json").write_text("{")
    found, _, own = cli(*words)
    assert found == code
    assert re.search(sentence, own, re.DOTALL), own
    assert ("Traceback" in own) == (code == 1)
    assert len([line for line in own.splitlines() if line.startswith("toypkg: ")]) == 1


def test_traceback_on_request(cli, monkeypatch):
    monkeypatch.setenv("TENFOLD_TRACEBACK", "1")
    assert "Traceback" in cli("crash", "input")[2]


# ---- fit and test: the configuration --------------------------------------------------------------

CONFIGS = {
    "unknown": "model:\n  widht: 3\n",
    "section": "modle:\n  width: 3\n",
    "trainer": "trainer:\n  max_epoch: 3\n",
    "type": "model:\n  width: abc\n",
    "malformed": "model:\n  width: [3\nlr: : :\n",
    "list": "- a\n",
    "class": "trainer:\n  callbacks:\n  - class_path: tenfold.train.lightning.EMACallbak\n",
    "nested": "trainer:\n  callbacks:\n  - class_path: tenfold.train.lightning.EMACallback\n"
    "    init_args:\n      decya: 3\n",
}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--config", "unknown.yaml"],
            r"unknown\.yaml: model\.widht: no such option \(did you mean 'model\.width'\?\)",
        ),
        (["--config", "line", "--config", "unknown.yaml"], r"unknown\.yaml: model\.widht"),
        (["--config", "section.yaml"], r"section\.yaml: modle\.width: no such option"),
        (
            ["--config", "trainer.yaml"],
            r"trainer\.max_epoch: no such option \(did you mean 'trainer\.max_epochs'\?\)",
        ),
        (["--config", "type.yaml"], r"type\.yaml: model\.width: got abc; expected int"),
        (["--config", "malformed.yaml"], r"malformed\.yaml: line 3: not valid YAML"),
        (["--config", "list.yaml"], r"list\.yaml: got a list; expected sections"),
        (["--config", "class.yaml"], r"class\.yaml: trainer\.callbacks: .*EMACallbak'"),
        (["--config", "nested.yaml"], r"nested\.yaml: trainer\.callbacks: decya: .*did you mean 'decay'"),
        (["--config", "binary.yaml"], r"binary\.yaml: cannot be read as YAML"),
        (["--config", "absent.yaml"], r"absent\.yaml: config: no such file or recipe; the recipes are line"),
        (["--config", "lime"], r"lime: config: .*did you mean 'line'"),
        (["--config", "line", "model.widht=3"], r"toypkg: model\.widht: no such option"),
        (["--config", "line", "model.width=z"], r"toypkg: model\.width: got z; expected int"),
        (["--config", "line", "model.width=0"], r"model\.width: got 0; expected at least 1"),
        (["--config", "line", "trainer.accelerator=warp"], r"configuration: .*accelerator='warp'"),
        (["--config", "line", "data.poisoned=3"], r"toypkg: sample-3\.bin: length: cut short$"),
        (
            ["--config", "line", "data.poisoned=3", "data.workers=1"],
            r"toypkg: sample-3\.bin: length: cut short$",
        ),
        (["--config", "line", "stray"], r"stray"),
        (["--config", "line", "--ckpt_path", "absent.ckpt"], r"absent\.ckpt: ckpt_path: no such checkpoint"),
        (["--config", "line", "--ckpt_path", "last"], r"last\.ckpt: ckpt_path: .*start from the beginning"),
        (["--config", "line", "--ckpt_path", "cut.ckpt"], r"cut\.ckpt: checkpoint: is damaged"),
        (["--ckpt_path", "cut.ckpt"], r"cut\.ckpt: checkpoint: is damaged"),
        (
            ["--config", "line", "trainer.default_root_dir=list.yaml/runs"],
            r"list\.yaml/runs.*: Not a directory",
        ),
    ],
)
def test_what_the_user_gets_wrong_is_exit_2_with_one_sentence(cli, tmp_path, words, sentence):
    for name, text in CONFIGS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    torch.save({"state_dict": {"w": torch.ones(5000)}}, tmp_path / "cut.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "cut.ckpt").read_bytes()[:2000])
    code, _, own = cli("fit", *words)
    assert code == 2, own
    assert re.search(sentence, own), own
    assert len(own.splitlines()) == 1


def test_fit_writes_logs_config_and_checkpoint_then_test_and_resume_use_them(cli, tmp_path):
    assert cli("distill", "--config", "line", "model.width=5", "trainer.max_epochs=2")[0] == 0
    root = tmp_path / "runs" / "toypkg"
    version = root / "logs" / "version_0"
    assert (version / "metrics.csv").read_text().count("\n") > 12
    assert list(version.glob("events.out.tfevents*"))
    # The saved configuration is a recipe itself, and the checkpoint knows its model without any.
    code, out, _ = cli("test", "--config", version / "config.yaml", "--ckpt_path", "last")
    assert code == 0
    assert "error" in out
    assert cli("test", "--ckpt_path", "last")[0] == 0
    code, _, own = cli("test", "--config", "line", "--ckpt_path", "last")
    assert code == 2
    assert re.search("does not fit the model: size mismatch for net", own)
    assert cli("fit", "--config", version / "config.yaml", "--ckpt_path=last", "trainer.max_epochs=3")[0] == 0
    assert cli("fit", "--config", "line", "model.width=5", "trainer.default_root_dir=whole")[0] == 0
    resumed, whole = weights(root / "checkpoints" / "last.ckpt"), weights("whole/checkpoints/last.ckpt")
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())


def test_print_config_is_a_recipe(cli, tmp_path):
    code, out, _ = cli("fit", "--config", "line", "model.lr=0.5", "--print_config")
    assert code == 0
    (tmp_path / "printed.yaml").write_text(out)
    assert "lr: 0.5" in out
    assert cli("fit", "--config", "printed.yaml", "trainer.max_steps=1")[0] == 0


def test_recipes_may_name_their_own_task(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    app = App(
        "toypkg",
        "1",
        "Two tasks.",
        task=("toypkg.task:ToyTask", "toypkg.task:ToyTask"),
        data=("toypkg.task:ToyData",),
    )
    (tmp_path / "named.yaml").write_text(
        "trainer: {max_steps: 1, accelerator: cpu}\n"
        "model: {class_path: ToyTask, init_args: {width: 3}}\n"
        "data: {class_path: toypkg.task.ToyData}\n"
    )
    assert app(["fit", "--config", "named.yaml"]) == 0
    assert weights("runs/toypkg/checkpoints/last.ckpt")["net.0.weight"].shape == (3, 4)
    assert (
        app(["test", "--ckpt_path", "last", "--data=toypkg.task.ToyData", "--trainer.accelerator=cpu"]) == 0
    )
    assert app(["fit", "--config", "named.yaml", "model.init_args.widht=3"]) == 2
    assert "widht" in capfd.readouterr().err


# ---- a missing extra ------------------------------------------------------------------------------

BLOCK = "import sys\nfor name in ({}): sys.modules[name] = None"


def test_a_missing_extra_is_exit_4_with_the_pip_line_and_the_rest_works(user, tmp_path):
    (tmp_path / "line.json").write_text('{"slope": 2, "offset": 1}')
    blocked = BLOCK.format("'lightning', 'tensorboard', 'torch'")
    for verb in ("fit", "test", "demo"):
        found = user(verb, "--config", "line", prelude=blocked)
        assert found.returncode == 4
        assert found.stderr.strip().endswith('pip install "toypkg[train]"')
        assert "Traceback" not in found.stderr
    fit_help = user("fit", "--help", prelude=blocked)
    assert fit_help.returncode == 0
    assert "$ toypkg fit --config line" in fit_help.stdout
    assert 'pip install "toypkg[train]"' in fit_help.stdout
    predicted = user("predict", "line.json", prelude=blocked)
    assert (predicted.returncode, predicted.stdout) == (0, '{"y": 3.0}\n')
    module = user("crash", "module", prelude=BLOCK.format("'open3d',"))
    assert module.returncode == 4
    assert 'pip install "toypkg[viz3d]"' in module.stderr
    parser = user("predict", "line.json", prelude=BLOCK.format("'jsonargparse',"))
    assert parser.returncode == 4
    assert 'pip install "toypkg[cli]"' in parser.stderr


# ---- kills, full disks, two processes -------------------------------------------------------------


def command_line(words):
    """The toy package's exit code; for children, which find this function here."""
    from toypkg.cli import app

    return app(words)


def test_sigkill_inside_an_epoch_then_resume_is_bit_equal(cli, one_thread, tmp_path):
    recipe = ["fit", "--config", "line", "checkpoint_every_n_steps=1", "trainer.logger=false"]
    killed = [*recipe, "trainer.default_root_dir=killed", "model.trace=killed.trace", "model.kill_at=8"]
    # In batch 3 of the second epoch.
    assert call_apart(command_line, killed).returncode == -signal.SIGKILL
    assert (tmp_path / "killed.trace").read_text().count("\n") == 9
    stored = torch.load(tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)
    assert 6 < stored["global_step"] <= 8
    to_resume = ["trainer.default_root_dir=killed", "model.trace=resumed.trace", "--ckpt_path", "last"]
    assert cli(*recipe, *to_resume)[0] == 0
    assert cli(*recipe, "trainer.default_root_dir=whole", "model.trace=whole.trace")[0] == 0
    lines = (tmp_path / "whole.trace").read_text().splitlines()
    assert len(lines) == 18
    assert (tmp_path / "resumed.trace").read_text().splitlines() == lines[stored["global_step"] :]
    expected = torch.load(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)
    found = torch.load(tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(torch.equal(expected["state_dict"][k], v) for k, v in found["state_dict"].items())
    for theirs, ours in zip(expected["optimizer_states"], found["optimizer_states"], strict=True):
        for index, state in theirs["state"].items():
            assert all(torch.equal(value, ours["state"][index][name]) for name, value in state.items())
    assert torch.equal(*(c["callbacks"]["RandomStates"]["by_rank"][0]["torch"] for c in (expected, found)))


def test_a_full_disk_is_exit_2_and_leaves_the_previous_checkpoint(cli, tmp_path):
    assert cli("fit", "--config", "line", "trainer.max_epochs=1", "trainer.logger=false")[0] == 0
    path = tmp_path / "runs" / "toypkg" / "checkpoints" / "last.ckpt"
    before = path.read_bytes()
    with full_disk(len(before) // 2):
        code, _, own = cli("fit", "--config", "line", "--ckpt_path", "last", "trainer.logger=false")
    assert code == 2, own
    assert re.search(r"last\.ckpt: .*File too large", own), own
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["last.ckpt"]
    assert cli("fit", "--config", "line", "--ckpt_path", "last", "trainer.logger=false")[0] == 0


def torchrun(words):
    """Two processes as a user starts them."""
    environment = child_environment()
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [*launcher, "-m", "toypkg.cli", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def forked(words):
    """Two processes that have their group already: the same without three imports of everything."""
    assert two_gloo_ranks(command_line, words, timeout=300) == [0, 0]


@pytest.mark.parametrize("start", [forked, pytest.param(torchrun, marks=pytest.mark.slow)])
def test_two_gloo_processes_equal_one(cli, tmp_path, start):
    recipe = [
        *("fit", "--config", "line", "model.plain=true", "model.dropout=0", "model.lr=0.1", "data.length=24"),
        *("trainer.precision=64-true", "trainer.max_epochs=1", "trainer.logger=false"),
    ]
    assert cli(*recipe, "data.batch_size=4", "trainer.default_root_dir=one")[0] == 0
    start(
        [
            *(*recipe, "data.batch_size=2", "trainer.default_root_dir=two"),
            *("trainer.devices=2", "trainer.strategy=ddp"),
        ]
    )
    expected, found = (weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("one", "two"))
    for name, value in expected.items():
        assert value.dtype == torch.float64
        # Plain SGD at rate 0.1: weights within 1e-8 after 6 steps mean gradients within 1e-6.
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-8)
    stored = torch.load(tmp_path / "two" / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(stored["callbacks"]["RandomStates"]["by_rank"]) == 2


# ---- the parts ------------------------------------------------------------------------------------


def test_arguments_are_normalised():
    assert normalise_arguments(["a.b=c", "--d", "e=f", "--g=h", "i=j", "k"]) == [
        "--a.b=c", "--d", "e=f", "--g=h", "--i=j", "k",
    ]  # fmt: skip
    assert normalise_arguments(["x=1", "file=2.png"], {"x"}) == ["--x=1", "file=2.png"]
    assert normalise_arguments(["--help", "a=b"]) == ["--help", "--a=b"]


def test_errors_are_classified():
    assert classify(UserInputError("a:\n b"), "p") == (2, "a: b")
    assert classify(MissingExtraError("x"), "p")[0] == 4
    assert classify(ModuleNotFoundError("no", name="open3d_absent"), "p")[0] == 1
    assert classify(ValueError("ours"), "p")[0] == 1
    assert classify(OSError(5, "input/output error"), "p")[0] == 1
    assert classify(PermissionError(13, "Permission denied", "/x/y"), "p") == (2, "/x/y: Permission denied")


def test_a_verb_s_number_is_its_exit_code(capsys):
    verbs = (
        Verb("number", "toypkg.verbs:number", "return a number", ("t number 3",)),
        Verb("truth", "toypkg.verbs:truth", "return True", ("t truth",)),
    )
    app = App("t", "1", "T.", verbs=verbs)
    assert app(["number", "3"]) == 3
    assert app(["truth"]) == 0
    assert app([]) == 0
    assert "$ t number 3" in capsys.readouterr().out


def test_a_group_of_verbs_is_another_app(monkeypatch, capsys):
    inner = App(
        "outer inner",
        "1",
        "The group.",
        task="toypkg.task:ToyTask",
        verbs=(Verb("number", "toypkg.verbs:number", "return a number", ("outer inner number 3",)),),
        package="toypkg",
        distribution="outer",
    )
    import toypkg.cli

    monkeypatch.setattr(toypkg.cli, "inner", inner, raising=False)
    group = Verb("inner", "toypkg.cli:inner", "the group", ("outer inner number 3",), group=True)
    outer = App("outer", "1", "All.", verbs=(group,))
    assert outer(["inner", "number", "5"]) == 5
    assert outer(["--help"]) == outer(["inner", "--help"]) == 0
    assert "usage: outer inner" in capsys.readouterr().out
    monkeypatch.setattr("tenfold.train.cli._installed", lambda extra: False)
    assert outer(["inner", "fit"]) == 4
    assert 'outer inner fit needs the extra [train]: pip install "outer[train]"' in capsys.readouterr().err


def test_tenfold_config_asks_the_native_module(monkeypatch, capsys):
    import tenfold.cli

    monkeypatch.setitem(vars(tenfold), "show_config", lambda: "CPU level v3")
    monkeypatch.setattr(sys, "argv", ["tenfold", "config"])
    assert tenfold.cli.main() == 0
    assert capsys.readouterr().out == "CPU level v3\n"


def test_no_run_is_left_behind_outside_the_user_s_folder(cli, tmp_path):
    before = set(os.listdir(tmp_path))
    assert cli("fit", "--config", "line", "trainer.fast_dev_run=true")[0] == 0
    assert set(os.listdir(tmp_path)) - before <= {"runs"}
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
