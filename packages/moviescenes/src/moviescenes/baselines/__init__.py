"""Published baselines, each from features to scores of boundaries and cuts.

They were described in papers of others; the definitions here are our reading of them. Scores of methods that need a
number of scenes are the share of a sweep of that number in which a boundary is cut.
"""

from moviescenes.baselines.cuts import dp_scenes, graph_cut, scsa, sequential_grouping, story_graph
from moviescenes.baselines.simple import Baseline, cosine_window, random_guess, shot_length

__all__ = [
    "Baseline",
    "cosine_window",
    "dp_scenes",
    "graph_cut",
    "random_guess",
    "scsa",
    "sequential_grouping",
    "shot_length",
    "story_graph",
]
