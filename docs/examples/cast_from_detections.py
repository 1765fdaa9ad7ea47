"""TTFNet's detections as the cast of moviescenes: `python cast_from_detections.py movie.mp4 people.pt`.

A shot is described by how many objects of which class and size are where in its picture; `moviescenes` caches the
numbers and compares shots with them. The detector is any checkpoint of ttfnet.
"""

import argparse

import numpy as np

import moviescenes
import ttfnet


class Cast:
    """Where objects are in the key frames of a shot: per class a 3 x 3 map of their areas, and their number."""

    name, modality, version, size = "ttfnet-cast", "cast", 1, 512

    def __init__(self, checkpoint, conf=0.3):
        self.detector = ttfnet.load(checkpoint)
        self.conf = conf
        self.classes = len(self.detector.info.class_names)
        self.dim = (10 * self.classes,)

    def frames(self, shot):
        """The quarter points."""
        return sorted(set(shot.keyframes))

    def describe(self, images):
        """Mean over the frames that could be read."""
        found = [self._layout(image) for image in images]
        return np.mean(found, 0).astype(np.float32) if found else np.zeros(self.dim, np.float32)

    def _layout(self, image):
        height, width = image.shape[:2]
        detections = self.detector.predict_images([image], conf=self.conf)[0]
        table = np.zeros((self.classes, 10))
        for box, label in zip(detections.boxes.numpy(), detections.labels.tolist(), strict=True):
            x, y = (box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height
            cell = min(int(3 * y), 2) * 3 + min(int(3 * x), 2)
            table[label, cell] += (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
            table[label, 9] += 1
        return table.ravel()


def main(arguments=None):
    """Scenes of a film by the detections of its shots; returns shots, features and scenes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("movie")
    parser.add_argument("checkpoint")
    parser.add_argument("--conf", type=float, default=0.3)
    options = parser.parse_args(arguments)

    cast = Cast(options.checkpoint, options.conf)
    shots = moviescenes.detect_shots(options.movie)
    found = moviescenes.extract_features(moviescenes.probe(options.movie), shots, {"cast": cast})
    scores = moviescenes.cosine_scores(found.arrays, 2)
    print(f"{len(shots)} shots, likeliest scene end after shot {int(scores.argmax())}")
    return shots, found.arrays["cast"], scores


if __name__ == "__main__":
    main()
