"""UNIX on a teacher made by SSKD: a large network teaches a middle one with self-supervision, that one a small one
at part of the price.

Both steps are ordinary modules with a loss; the networks are those of `tenfold.distill`, or yours. Generated strokes
stand for images here.
"""

import torch

from ssl_kd import RotationViews, SSKDLoss, SSKDStep, SSWrapper, train_ss_head
from tenfold.distill import create_model
from tenfold.distill.data import Augment, ImageArrays, LabelledImages
from tenfold.distill.loop import accuracy, batches
from tenfold.distill.strokes import strokes
from unix_kd import DistillStep, UncertaintyMixup, UnixLoss

CLASSES = 20


def learn(step, loader, epochs, target):
    """Plain SGD on what a step calls its loss."""
    optimizer = torch.optim.SGD(target, lr=0.05, momentum=0.9, weight_decay=5e-4)
    losses = []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for x, labels, _ in loader:
            loss = step(x, labels)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def main(number=512, epochs=3):
    """Large to middle by SSKD, middle to small by UNIX; returns the losses of both, and who was asked how often."""
    torch.manual_seed(0)
    pixels, labels = strokes(number)
    images = LabelledImages(pixels, labels, tuple(map(str, range(CLASSES))))
    crops = Augment(pad=2, flip=0.5)
    rotated = batches(ImageArrays(images, RotationViews(crops)), 32)
    plain = batches(ImageArrays(images, crops), 32)

    large, middle, small = (create_model(name, CLASSES) for name in ("resnet14", "resnet8", "plain3"))
    learn(
        lambda x, y: {"loss": torch.nn.functional.cross_entropy(large(x), y)},
        plain,
        epochs,
        large.parameters(),
    )

    teacher, student = SSWrapper(large), SSWrapper(middle)
    train_ss_head(teacher, rotated, epochs=1)
    sskd = SSKDStep(student, teacher, SSKDLoss(weights="code")).train()
    first = learn(sskd, rotated, epochs, sskd.trainable())

    # The middle network, trained, is now the teacher.
    unix = DistillStep(
        small, middle.eval(), UncertaintyMixup(keep=24, b=16, nominal=32), UnixLoss(T=4.0)
    ).train()
    second = learn(unix, plain, epochs, unix.trainable())
    print(f"SSKD {first[0]:.2f} -> {first[-1]:.2f}, UNIX {second[0]:.2f} -> {second[-1]:.2f}")
    print(f"top-1 on the training images: middle {accuracy(middle, ImageArrays(images, crops)):.0f} %")
    return first, second, unix


if __name__ == "__main__":
    main()
