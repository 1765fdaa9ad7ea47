"""Distil torchvision networks on a folder of images: `python distill_image_folder.py FOLDER [--epochs 10]`.

FOLDER holds train/<class>/*.jpg and test/<class>/*.jpg. The teacher here is a network with published weights whose
last layer is trained first; any network of yours will do.
"""

import argparse

import torch
import torch.nn.functional as F

from tenfold.distill import DistillStep, create_model
from tenfold.distill.data import FolderImages, ResizedCrop
from tenfold.distill.loop import batches, topk_correct


def main(arguments=None):
    """Teacher, then student; returns the accuracy of the student in percent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--teacher", default="torchvision:resnet18")
    parser.add_argument("--student", default="torchvision:mobilenet_v3_small")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args(arguments)

    crops = ResizedCrop(options.size, resize=round(options.size * 256 / 224))
    train_set = FolderImages(options.folder, "train", crops)
    test_set = FolderImages(options.folder, "test", crops.plain(), random=False)
    classes = len(train_set.class_names)
    teacher, student = create_model(options.teacher, classes), create_model(options.student, classes)

    def run(step, parameters, epochs):
        loader = batches(train_set, options.batch, drop_last=False)
        optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
        for epoch in range(epochs):
            loader.sampler.set_epoch(epoch)
            for x, labels, index in loader:
                loss = step(x, labels, index)["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    teacher.train()
    run(lambda x, y, _: {"loss": F.cross_entropy(teacher(x), y)}, teacher.parameters(), options.epochs)

    # The ten lines: class scores, and relations between the vectors before the classifiers.
    step = DistillStep(student, teacher, "rkd", input_shape=(3, options.size, options.size)).train()
    run(step, step.trainable(), options.epochs)

    student.eval()
    with torch.no_grad():
        right = [
            topk_correct(student(x), y, 1)
            for x, y, _ in batches(test_set, 64, shuffle=False, drop_last=False)
        ]
    top1 = 100 * torch.cat(right).double().mean().item()
    print(f"student: top-1 {top1:.1f} % of {len(test_set)} test images")
    return top1


if __name__ == "__main__":
    main()
