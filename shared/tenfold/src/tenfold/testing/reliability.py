"""What every method package's command line must survive, as tests that pytest collects from a subclass."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tenfold.testing.apps import assert_help_shows_examples, assert_light_help
from tenfold.testing.faults import corruptions
from tenfold.testing.processes import full_disk, unwritable_path
from tenfold.train.cli import App, load

__all__ = ["PackageReliability", "Prediction"]

#: A sound checkpoint, and the words that predict with one and write into a folder.
Prediction = tuple[Path, Callable[[Path, Path], Sequence[object]]]
_Cli = Callable[..., tuple[int, str, str]]

_RECIPES = {
    "unknown section": b"modle: {depth: 1}\n",
    "unknown option": b"trainer: {max_epoks: 1}\n",
    "cut": b"trainer: {max_epochs: [1,\n",
    "a list": b"- trainer\n- model\n",
    "no text": bytes(range(128, 256)),
    "wrong type": b"trainer: {max_epochs: many}\n",
}


class PackageReliability:
    """Damaged and missing files, folders that cannot be written, a full disk, and a help with examples.

    The tests need the fixtures ``cli`` (`cli_fixture`) and ``prediction``, which returns a `Prediction`.

    Attributes:
        app: ``"module:name"`` of the `App`.
    """

    app: str

    def test_help_shows_examples_and_is_light(self, cli: _Cli) -> None:
        """Every verb has examples; the program's help loads no torch."""
        assert_help_shows_examples(cli, self._app())
        assert_light_help(self.app)

    def test_a_full_disk_leaves_the_old_files(
        self, cli: _Cli, prediction: Prediction, tmp_path: Path
    ) -> None:
        """A second prediction that finds the disk full leaves each file as the first one wrote it, or whole."""
        checkpoint, words = prediction
        out = tmp_path / "full"
        out.mkdir()
        code, _, err = cli(*words(checkpoint, out))
        assert code == 0, err
        before = _contents(out)
        limit = max(map(len, before.values())) // 2
        assert limit > 200, "the largest file is so small that what is printed would not fit either"
        with full_disk(limit):
            code, _, err = cli(*words(checkpoint, out))
        self._one_sentence(code, err)
        assert "cannot be written" in err
        after = _contents(out)
        assert sorted(after) == sorted(before)
        for name, content in before.items():
            if len(content) > limit:
                assert after[name] == content, name

    def test_an_unwritable_folder_is_the_user_s_error(
        self, cli: _Cli, prediction: Prediction, tmp_path: Path
    ) -> None:
        """The sentence names the path."""
        checkpoint, words = prediction
        out = unwritable_path(tmp_path)
        code, _, err = cli(*words(checkpoint, out))
        self._one_sentence(code, err)
        assert out.parent.name in err

    def test_a_damaged_checkpoint_is_the_user_s_error(
        self, cli: _Cli, prediction: Prediction, tmp_path: Path
    ) -> None:
        """Every kind of damage is noticed and told in one sentence that names the file; nothing is written."""
        checkpoint, words = prediction
        damaged = tmp_path / f"damaged{checkpoint.suffix}"
        for number, (name, data) in enumerate(corruptions(checkpoint, flips=0)):
            damaged.write_bytes(data)
            out = tmp_path / f"out{number}"
            code, _, err = cli(*words(damaged, out))
            if code == 0 and name.startswith("middle"):
                continue  # other weights, which no format would notice
            assert code == 2, f"{name}: exit code {code}: {err[-2000:]}"
            self._one_sentence(code, err)
            assert damaged.name in err, name
            assert not out.exists() or not _contents(out), name

    @pytest.mark.parametrize("damage", list(_RECIPES))
    def test_a_damaged_recipe_is_the_user_s_error(self, cli: _Cli, damage: str, tmp_path: Path) -> None:
        """`fit` stops before it has made anything, with one sentence."""
        (tmp_path / "damaged.yaml").write_bytes(_RECIPES[damage])
        code, _, err = cli("fit", "--config", "damaged.yaml")
        self._one_sentence(code, err)
        names = {"unknown section": "modle", "unknown option": "max_epoks", "wrong type": "max_epochs"}
        assert names.get(damage, "damaged.yaml") in err
        assert [path.name for path in tmp_path.iterdir()] == ["damaged.yaml"]

    def _app(self) -> App:
        found: App = load(self.app)  # type: ignore[assignment]
        return found

    def _one_sentence(self, code: int, err: str) -> None:
        lines = err.strip().splitlines()
        assert code == 2, err[-2000:]
        assert lines[-1].startswith(f"{self._app().name}: "), err[-2000:]
        assert "Traceback" not in err


def _contents(folder: Path) -> dict[str, Any]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
