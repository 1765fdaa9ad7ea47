import sys

from tenfold.train.cli import App, Verb

app = App(
    name="toypkg",
    version="0.3.0",
    summary="Fits a line, to show how the house runs things.",
    task="toypkg.task:ToyTask",
    data="toypkg.task:ToyData",
    fit_examples=("toypkg fit --config line", "toypkg fit --config line model.lr=0.01 trainer.max_epochs=1"),
    test_examples=("toypkg test --config line --ckpt_path last",),
    aliases={"distill": "fit"},
    verbs=(
        Verb(
            "demo",
            "toypkg.verbs:demo",
            "train for a second and print the error",
            ("toypkg demo",),
            extra="train",
        ),
        Verb(
            "predict",
            "toypkg.verbs:predict",
            "evaluate the line of a weights file",
            ("toypkg predict line.json --x 2", "toypkg predict line.json x=2"),
            aliases=("verify",),
        ),
        Verb(
            "export", "toypkg.verbs:export", "write the line as text", ("toypkg export line.json line.txt",)
        ),
        Verb("crash", "toypkg.verbs:crash", "raise what the tests ask for", ("toypkg crash interrupt",)),
    ),
)

if __name__ == "__main__":
    sys.exit(app())
