"""Films with features and annotations: readers of the public layouts, and generated ones."""

from moviescenes.data.annotations import OVSD, RAI, BBCPlanetEarth, boundary_labels, labels_from_starts
from moviescenes.data.film import FilmPlan, plan_film, write_film
from moviescenes.data.films import FilmData, SegmentDataset
from moviescenes.data.generated import GENERATOR, GeneratorSettings, generate_films
from moviescenes.data.movienet import MovieNetSceneSeg, read_labels
from moviescenes.data.packs import FeaturePack, SceneFeatures, read_movienet_scenes, read_ndjson, read_scrl

__all__ = [
    "GENERATOR",
    "OVSD",
    "RAI",
    "BBCPlanetEarth",
    "FeaturePack",
    "FilmData",
    "FilmPlan",
    "GeneratorSettings",
    "MovieNetSceneSeg",
    "SceneFeatures",
    "SegmentDataset",
    "boundary_labels",
    "generate_films",
    "labels_from_starts",
    "plan_film",
    "read_labels",
    "read_movienet_scenes",
    "read_ndjson",
    "read_scrl",
    "write_film",
]
